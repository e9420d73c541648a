//! The standalone program under test, on a directory of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::service::{Launch, Service};
use crate::verify::ClickHouse;
use crate::{Error, process, workspace};

/// A killed engine is back after this.
const ENGINE_WITHIN: Duration = Duration::from_mins(2);
const POLL: Duration = Duration::from_millis(20);

/// A running `sluice`.
pub struct Standalone {
    service: Service,
    data_dir: PathBuf,
    base_url: String,
}

/// What `sluice` writes for scripts into its data directory.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Credentials {
    /// Where the API is.
    pub base_url: String,
    /// The demo project.
    pub project_slug: String,
    /// An admin key of it.
    pub api_key: String,
    /// Where its metrics are.
    pub admin_url: String,
    /// Its ClickHouse.
    pub clickhouse: ClickHouse,
    /// Its Postgres.
    pub postgres: Postgres,
}

/// Where Postgres is.
#[derive(Clone, Debug, Deserialize)]
pub struct Postgres {
    /// `postgres://user:password@host:port/database`.
    pub url: String,
}

impl Credentials {
    /// Reads `credentials.json` of a data directory.
    pub fn read(data_dir: &Path) -> Result<Self, Error> {
        let path = data_dir.join("credentials.json");
        let text = fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        Ok(serde_json::from_slice(&text)?)
    }
}

impl Standalone {
    /// Starts it with its data in `dir`, and waits until it is ready.
    pub async fn start(dir: &Path) -> Result<Self, Error> {
        fs::create_dir_all(dir)?;
        let (listen, data_dir) = (workspace::free_address()?, dir.join("data"));
        let launch = Launch {
            program: "sluice",
            environment: vec![
                ("SLUICE_DATA_DIR", data_dir.display().to_string()),
                ("SLUICE_LISTEN", listen.to_string()),
            ],
            log: dir.join("sluice.log"),
        };
        Ok(Self {
            service: Service::start(launch).await?,
            data_dir,
            base_url: format!("http://{listen}"),
        })
    }

    /// Where it listens.
    pub fn base_url(&self) -> &str {
        &self.base_url
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.service.pid()
    }

    /// How to reach it and its engines, as it says itself.
    pub fn credentials(&self) -> Result<Credentials, Error> {
        Credentials::read(&self.data_dir)
    }

    /// Its ClickHouse, as it says itself.
    pub fn clickhouse(&self) -> Result<ClickHouse, Error> {
        Ok(self.credentials()?.clickhouse)
    }

    /// SIGKILL, then a start on the same directory and ports.
    pub async fn kill_and_restart(&mut self) -> Result<(), Error> {
        self.service.kill_and_restart().await
    }

    /// SIGKILL to the ClickHouse that it runs; ready again when this returns.
    pub async fn kill_clickhouse(&mut self) -> Result<(), Error> {
        let server = self.own_clickhouse().await?;
        process::kill_and_wait(server);
        self.own_clickhouse().await?;
        self.service.wait_until_ready().await
    }

    /// The process of the ClickHouse that it runs, once it runs one: it may see
    /// to its engine itself, or end and be started again.
    async fn own_clickhouse(&mut self) -> Result<u32, Error> {
        let deadline = Instant::now() + ENGINE_WITHIN;
        loop {
            self.service.mend()?;
            if let [server, ..] = process::children_with(self.pid(), "ClickHouse")[..] {
                return Ok(server);
            }
            if Instant::now() > deadline {
                return Err("sluice runs no ClickHouse of its own".into());
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Starts it again if it has ended by itself; whether it had.
    pub fn mend(&mut self) -> Result<bool, Error> {
        self.service.mend()
    }

    /// SIGTERM, and waits for an orderly end.
    pub fn stop(self) -> Result<(), Error> {
        self.service.stop()
    }
}
