//! The snapshot's copy on disk: hashes of keys, never keys; for us alone (0600).
//!
//! It is replaced whole, by rename, when its content has changed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::snapshot::Rows;

const VERSION: u32 = 1;
const FOR_US_ALONE: u32 = 0o600;

#[derive(Serialize, Deserialize)]
struct Stored {
    version: u32,
    #[serde(flatten)]
    rows: Rows,
}

/// Where the copy is.
#[derive(Clone, Debug)]
pub(super) struct Copy {
    path: PathBuf,
}

impl Copy {
    pub(super) fn at(path: PathBuf) -> Self {
        Self { path }
    }

    /// `None` where there is no copy, or none that can be used.
    pub(super) fn read(&self) -> Option<Rows> {
        let bytes = match fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::warn!(%error, path = %self.path.display(), "cannot read the directory's copy");
                return None;
            }
        };
        match serde_json::from_slice::<Stored>(&bytes) {
            Ok(stored) if stored.version == VERSION => Some(stored.rows),
            Ok(_) | Err(_) => {
                tracing::warn!(path = %self.path.display(), "the directory's copy is not one of this release");
                None
            }
        }
    }

    /// Replaces the copy, unless it says the same already.
    pub(super) fn write(&self, rows: &Rows) -> io::Result<()> {
        let stored = Stored {
            version: VERSION,
            rows: rows.clone(),
        };
        let bytes = serde_json::to_vec(&stored)?;
        if fs::read(&self.path).is_ok_and(|present| present == bytes) {
            return Ok(());
        }
        let Some(dir) = self.path.parent() else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        fs::create_dir_all(dir)?;
        let unfinished = self.path.with_extension("new");
        // A left-over may have other permissions.
        let _ = fs::remove_file(&unfinished);
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(FOR_US_ALONE)
            .open(&unfinished)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&unfinished, &self.path)?;
        File::open(dir)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::super::snapshot::KeyRow;
    use super::*;

    #[test]
    fn what_is_written_is_read_by_us_alone() {
        let dir = tempfile::tempdir().unwrap();
        let copy = Copy::at(dir.path().join("deep/directory.json"));
        assert_eq!(copy.read(), None);
        for project in [1, 2] {
            let key = KeyRow {
                project,
                hash: "00".repeat(32),
            };
            let rows = Rows {
                projects: Vec::new(),
                keys: vec![key],
            };
            copy.write(&rows).unwrap();
            copy.write(&rows).unwrap();
            assert_eq!(copy.read(), Some(rows));
        }
        let mode = fs::metadata(&copy.path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, FOR_US_ALONE);
        assert_eq!(
            fs::read_dir(copy.path.parent().unwrap()).unwrap().count(),
            1
        );
    }

    #[test]
    fn a_damaged_copy_is_no_copy() {
        let dir = tempfile::tempdir().unwrap();
        let copy = Copy::at(dir.path().join("directory.json"));
        for damaged in ["", "{", r#"{"version":2,"projects":[],"keys":[]}"#] {
            fs::write(&copy.path, damaged).unwrap();
            assert_eq!(copy.read(), None);
        }
    }
}
