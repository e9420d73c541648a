//! Connections that each send one request after the other until the time is up.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::SendRequest;
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::Error;

/// A request ready to be sent; `Host` is added.
pub type Prepared = Request<Full<Bytes>>;

/// How long, and by how many at once.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// How long.
    pub lasts: Duration,
    /// Connections.
    pub connections: usize,
}

/// Sends the requests that `make` numbers, from 0, to `base_url`. Returns how
/// many were answered; any other answer than `expected` is an error.
pub async fn run(
    base_url: &str,
    load: Load,
    expected: StatusCode,
    make: impl Fn(u64) -> Result<Prepared, Error> + Send + Sync + 'static,
) -> Result<u64, Error> {
    let uri = base_url.parse::<Uri>()?;
    let authority = uri.authority().ok_or("no address")?.to_string();
    let (make, next) = (Arc::new(make), Arc::new(AtomicU64::new(0)));
    let until = Instant::now() + load.lasts;
    let mut connections = tokio::task::JoinSet::new();
    for _ in 0..load.connections {
        let sender = connect(&authority).await?;
        let (make, next, authority) = (Arc::clone(&make), Arc::clone(&next), authority.clone());
        connections.spawn(async move {
            let next = || {
                let mut request = make(next.fetch_add(1, Ordering::Relaxed))?;
                request.headers_mut().insert("host", authority.parse()?);
                Ok(request)
            };
            send_until(until, sender, expected, next).await
        });
    }
    let mut requests = 0;
    while let Some(sent) = connections.join_next().await {
        requests += sent??;
    }
    Ok(requests)
}

async fn connect(authority: &str) -> Result<SendRequest<Full<Bytes>>, Error> {
    let stream = TcpStream::connect(authority).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

async fn send_until(
    until: Instant,
    mut sender: SendRequest<Full<Bytes>>,
    expected: StatusCode,
    next: impl Fn() -> Result<Prepared, Error>,
) -> Result<u64, Error> {
    let mut requests = 0;
    while Instant::now() < until {
        let response = sender.send_request(next()?).await?;
        if response.status() != expected {
            return Err(format!("a variant answered {}", response.status()).into());
        }
        response.into_body().collect().await?;
        sender.ready().await?;
        requests += 1;
    }
    Ok(requests)
}
