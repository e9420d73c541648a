//! A place for a run: directories and ports, and nothing left of them afterwards.

use std::fs::{self, Permissions};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::Error;

const GONE_WITHIN: Duration = Duration::from_secs(30);
const TAIL_LINES: usize = 20;

/// A temporary directory that others may pass through: PostgreSQL's own user
/// keeps its files in one of its subdirectories.
pub fn directory() -> io::Result<TempDir> {
    let dir = tempfile::Builder::new()
        .prefix("sluice-loadtest-")
        .tempdir()?;
    fs::set_permissions(dir.path(), Permissions::from_mode(0o711))?;
    Ok(dir)
}

/// An address on loopback that nobody listens on at this moment.
pub fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind(("127.0.0.1", 0))?.local_addr()
}

/// The end of a log.
pub fn tail(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}

/// Waits until no process mentions `dir` any more, then removes it.
pub fn remove(dir: TempDir) -> Result<(), Error> {
    let deadline = Instant::now() + GONE_WITHIN;
    while let Some(left) = process_that_mentions(dir.path()) {
        if Instant::now() > deadline {
            return Err(format!(
                "process {left} was left behind, in {}",
                dir.path().display()
            )
            .into());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(dir.close()?)
}

fn process_that_mentions(dir: &Path) -> Option<u32> {
    let name = dir.file_name()?.as_encoded_bytes();
    let pids = fs::read_dir("/proc").ok()?.flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let mentions = |pid: &u32| {
        ["cmdline", "environ"].iter().any(|file| {
            let text = fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
            text.windows(name.len()).any(|part| part == name)
        })
    };
    pids.filter(|pid| *pid != std::process::id()).find(mentions)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_directory_goes_when_the_last_process_in_it_has() {
        let dir = directory().unwrap();
        let path = dir.path().to_owned();
        let mut child = Command::new("sleep")
            .arg("30")
            .env("IN", &path)
            .spawn()
            .unwrap();
        assert_eq!(process_that_mentions(&path), Some(child.id()));
        child.kill().unwrap();
        child.wait().unwrap();
        remove(dir).unwrap();
        assert!(!path.exists());
    }
}
