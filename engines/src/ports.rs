//! Free ports of 127.0.0.1, kept over restarts where they are still free.

use std::fs;
use std::io;
use std::net::TcpListener;
use std::path::Path;

use rand::Rng;

/// Below the ports that systems give to outgoing connections, any of which
/// could take the place of a server that restarts.
const RANGE: std::ops::Range<u16> = 20_000..32_000;
const TRIES: usize = 1000;

/// `count` different ports that were free a moment ago.
fn free(count: usize) -> io::Result<Vec<u16>> {
    let mut held = Vec::with_capacity(count);
    for _ in 0..TRIES {
        if held.len() == count {
            break;
        }
        let port = rand::rng().random_range(RANGE);
        if let Ok(listener) = listen(port) {
            held.push((port, listener));
        }
    }
    if held.len() < count {
        return Err(io::Error::other("no free port on 127.0.0.1"));
    }
    Ok(held.iter().map(|(port, _)| *port).collect())
}

fn listen(port: u16) -> io::Result<TcpListener> {
    TcpListener::bind(("127.0.0.1", port))
}

/// The `N` ports stored at `path` if all are still free, else new ones, stored.
pub(crate) fn keep<const N: usize>(path: &Path) -> io::Result<[u16; N]> {
    let ports = keep_many(path, N)?;
    ports
        .try_into()
        .map_err(|_| io::ErrorKind::InvalidData.into())
}

/// The same where their number is not known before.
pub(crate) fn keep_many(path: &Path, count: usize) -> io::Result<Vec<u16>> {
    let stored = stored(path).filter(|ports| ports.len() == count);
    if let Some(ports) = stored
        && ports.iter().all(|port| listen(*port).is_ok())
    {
        return Ok(ports);
    }
    let ports = free(count)?;
    let lines: Vec<String> = ports.iter().map(u16::to_string).collect();
    fs::write(path, lines.join("\n"))?;
    Ok(ports)
}

fn stored(path: &Path) -> Option<Vec<u16>> {
    let text = fs::read_to_string(path).ok()?;
    text.lines().map(|line| line.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_kept_until_another_has_them() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ports");
        let first: [u16; 2] = keep(&path).unwrap();
        assert_ne!(first[0], first[1]);
        assert_eq!(keep::<2>(&path).unwrap(), first);
        let taken = listen(first[1]).unwrap();
        assert_ne!(keep::<2>(&path).unwrap()[1], first[1]);
        drop(taken);
    }
}
