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

/// `N` different ports that were free a moment ago.
fn free<const N: usize>() -> io::Result<[u16; N]> {
    let mut held = Vec::with_capacity(N);
    for _ in 0..TRIES {
        if held.len() == N {
            break;
        }
        let port = rand::rng().random_range(RANGE);
        if let Ok(listener) = listen(port) {
            held.push((port, listener));
        }
    }
    let ports: Vec<u16> = held.iter().map(|(port, _)| *port).collect();
    ports
        .try_into()
        .map_err(|_| io::Error::other("no free port on 127.0.0.1"))
}

fn listen(port: u16) -> io::Result<TcpListener> {
    TcpListener::bind(("127.0.0.1", port))
}

/// The ports stored at `path` if all are still free, else new ones, stored.
pub(crate) fn keep<const N: usize>(path: &Path) -> io::Result<[u16; N]> {
    if let Some(ports) = stored(path)
        && ports.iter().all(|port| listen(*port).is_ok())
    {
        return Ok(ports);
    }
    let ports = free()?;
    fs::write(path, ports.map(|port| port.to_string()).join("\n"))?;
    Ok(ports)
}

fn stored<const N: usize>(path: &Path) -> Option<[u16; N]> {
    let text = fs::read_to_string(path).ok()?;
    let ports: Option<Vec<u16>> = text.lines().map(|line| line.parse().ok()).collect();
    ports?.try_into().ok()
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
