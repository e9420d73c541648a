//! One engine per directory: the child that runs it holds a lock on it.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::{EngineError, file_error, supervisor};

/// How long an engine of an earlier start may take to end.
const PREDECESSOR_ENDS_WITHIN: Duration = Duration::from_secs(20);

/// Held while an engine runs on a directory.
pub(crate) struct Occupancy {
    _lock: File,
}

/// Takes the directory; fails if an engine runs on it.
pub(crate) fn take(dir: &Path) -> io::Result<Occupancy> {
    let file = File::create(dir.join("lock"))?;
    file.try_lock()?;
    Ok(Occupancy { _lock: file })
}

/// The absolute path of `dir`, which exists then, and on which no engine of an
/// earlier start runs any more.
pub(crate) fn prepare(engine: &'static str, dir: &Path) -> Result<PathBuf, EngineError> {
    let dir = std::path::absolute(dir).map_err(file_error(dir))?;
    fs::create_dir_all(&dir).map_err(file_error(&dir))?;
    wait_for_predecessor(engine, &dir)?;
    supervisor::end_orphan(&dir, &dir.join("server.pid"), PREDECESSOR_ENDS_WITHIN);
    Ok(dir)
}

fn wait_for_predecessor(engine: &'static str, dir: &Path) -> Result<(), EngineError> {
    let deadline = Instant::now() + PREDECESSOR_ENDS_WITHIN;
    let path = dir.join("lock");
    let file = File::create(&path).map_err(file_error(&path))?;
    loop {
        match file.try_lock() {
            // Told, not left to the file's end: a process that is being forked just
            // now has the file too, until it becomes what it is to be.
            Ok(()) => return file.unlock().map_err(file_error(path)),
            Err(TryLockError::Error(error)) => return Err(file_error(path)(error)),
            Err(TryLockError::WouldBlock) if Instant::now() > deadline => {
                let reason = format!("another process uses {}", dir.display());
                return Err(EngineError::Run { engine, reason });
            }
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn processes_that_begin_meanwhile_do_not_occupy_it() {
        let dir = tempfile::tempdir().unwrap();
        let is_done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_done.load(Ordering::Relaxed) {
                    Command::new("true").status().unwrap();
                }
            });
            let taken = (0..2_000).try_for_each(|_| {
                let dir = prepare("test", dir.path()).map_err(io::Error::other)?;
                take(&dir).map(drop)
            });
            is_done.store(true, Ordering::Relaxed);
            taken.expect("free");
        });
    }
}
