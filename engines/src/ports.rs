//! Free ports of 127.0.0.1, kept over restarts where they are still free.

use std::fs;
use std::io;
use std::net::TcpListener;
use std::path::Path;

/// `N` different ports that were free a moment ago.
pub(crate) fn free<const N: usize>() -> io::Result<[u16; N]> {
    let mut listeners = Vec::with_capacity(N);
    let mut ports = [0; N];
    for port in &mut ports {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        *port = listener.local_addr()?.port();
        listeners.push(listener);
    }
    Ok(ports)
}

/// The ports stored at `path` if all are still free, else new ones, stored.
pub(crate) fn keep<const N: usize>(path: &Path) -> io::Result<[u16; N]> {
    if let Some(ports) = stored(path)
        && ports
            .iter()
            .all(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
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
