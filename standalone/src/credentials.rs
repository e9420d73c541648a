//! `credentials.json` in the data directory: what scripts and tests need.
//!
//! Written when everything is up, readable by its owner alone. The API key in
//! it is the only copy: the database has its hash.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

const FILE: &str = "credentials.json";

/// How to reach a running Sluice and its engines.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Credentials {
    /// What SDKs, the CLI and dashboards take as the server's address.
    pub(crate) base_url: String,
    /// The demo project.
    pub(crate) project_slug: String,
    /// An admin key of it.
    pub(crate) api_key: String,
    /// `/metrics`, `/healthz`, `/readyz`.
    pub(crate) admin_url: String,
    /// What devices report.
    pub(crate) clickhouse: ClickHouse,
    /// What people decide.
    pub(crate) postgres: Postgres,
}

/// Where ClickHouse is and who may do everything there.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ClickHouse {
    /// Base address of the HTTP interface.
    pub(crate) url: String,
    /// Sluice's database.
    pub(crate) database: String,
    /// User name.
    pub(crate) user: String,
    /// Password.
    pub(crate) password: String,
}

/// Where Postgres is.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Postgres {
    /// `postgres://user:password@host:port/database`.
    pub(crate) url: String,
}

impl Credentials {
    /// Where they are in a data directory.
    pub(crate) fn path(data_dir: &Path) -> PathBuf {
        data_dir.join(FILE)
    }

    /// The key that an earlier start wrote.
    pub(crate) fn kept_key(data_dir: &Path) -> Option<String> {
        let text = fs::read(Self::path(data_dir)).ok()?;
        let kept: Self = serde_json::from_slice(&text).ok()?;
        Some(kept.api_key)
    }

    /// Writes them as a whole or not at all.
    pub(crate) fn write(&self, data_dir: &Path) -> io::Result<()> {
        let path = Self::path(data_dir);
        let temporary = path.with_extension("tmp");
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(&serde_json::to_vec_pretty(self)?)?;
        file.sync_all()?;
        fs::rename(temporary, path)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn credentials(api_key: &str) -> Credentials {
        Credentials {
            base_url: "http://127.0.0.1:8080".to_owned(),
            project_slug: "my-app".to_owned(),
            api_key: api_key.to_owned(),
            admin_url: "http://127.0.0.1:9100".to_owned(),
            clickhouse: ClickHouse {
                url: "http://127.0.0.1:8123".to_owned(),
                database: "sluice".to_owned(),
                user: "sluice".to_owned(),
                password: "secret".to_owned(),
            },
            postgres: Postgres {
                url: "postgres://sluice:secret@127.0.0.1:5432/postgres".to_owned(),
            },
        }
    }

    #[test]
    fn the_key_is_kept_where_only_its_owner_reads() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Credentials::kept_key(dir.path()), None);
        credentials("first").write(dir.path()).unwrap();
        credentials("second").write(dir.path()).unwrap();
        assert_eq!(Credentials::kept_key(dir.path()).as_deref(), Some("second"));
        let mode = fs::metadata(Credentials::path(dir.path()))
            .unwrap()
            .permissions();
        assert_eq!(mode.mode() & 0o777, 0o600);
    }
}
