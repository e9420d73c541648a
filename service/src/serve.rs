//! The listener of what devices and people call: connections in, answers out,
//! and the end in order. HTTP/1.1 only.
//!
//! What always holds: a head comes in time, and an idle connection goes after a
//! while ([`Timeouts`]); who is refused before the whole body was read can read
//! why; told to stop, it closes what idles and answers what is in flight.
//! How long a body may take is for whoever reads it.

mod body;
mod phase;

use std::convert::Infallible;
use std::error::Error;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use self::body::Received;
use self::phase::Timed;
pub use self::phase::{Phase, Phases, Stamp, Timeouts};
use crate::proxies::TrustedProxies;

/// Bytes that are read at once; a head that has not ended after about as many is refused.
const MAX_BUFFER_BYTES: usize = 64 * 1024;
/// A pause after a failed accept, most likely for want of file descriptors.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);

/// What a listener may take on, and for how long it waits.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Of connections.
    pub timeouts: Timeouts,
    /// Open connections; more wait to be accepted.
    pub max_connections: usize,
    /// Whose `X-Forwarded-For` counts.
    pub proxies: TrustedProxies,
    /// How long what is in flight may take once the listener is told to stop.
    pub grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            timeouts: Timeouts::default(),
            max_connections: 100_000,
            proxies: TrustedProxies::default(),
            grace: Duration::from_secs(20),
        }
    }
}

/// Answers the requests of connections.
pub trait Service: Send + Sync + 'static {
    /// Of its answers; it may never end.
    type Body: AnswerBody;
    /// Held for as long as a connection is open.
    type Open: Send;

    /// A connection has been opened.
    fn open(&self) -> Self::Open;

    /// Answers a request, and says through `connection` what it waits for.
    fn answer(
        &self,
        request: Request<Incoming>,
        connection: &Connection,
    ) -> impl Future<Output = Response<Self::Body>> + Send;
}

/// Answers requests in its own time.
pub trait Handler: Send + Sync + 'static {
    /// Of its answers; it may never end.
    type Body: AnswerBody;

    /// Answers a request. `client` is the peer, or what a trusted proxy said of it.
    fn call(
        &self,
        request: Request<Received>,
        client: SocketAddr,
    ) -> impl Future<Output = Response<Self::Body>> + Send;
}

/// The body of an answer.
pub trait AnswerBody:
    Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Send + Unpin + 'static
{
}

impl<B> AnswerBody for B where
    B: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Send + Unpin + 'static
{
}

/// A handler of all requests.
#[derive(Clone, Copy, Debug)]
pub struct Only<H>(pub H);

impl<H: Handler> Service for Only<H> {
    type Body = Working<H::Body>;
    type Open = ();

    fn open(&self) {}

    async fn answer(
        &self,
        request: Request<Incoming>,
        connection: &Connection,
    ) -> Response<Self::Body> {
        connection.hand_over(&self.0, request).await
    }
}

/// Serves until `stop` is cancelled, then closes what idles, answers what is in
/// flight, and returns: at the latest after the grace.
pub async fn serve<S: Service>(
    listener: TcpListener,
    service: S,
    limits: Limits,
    stop: CancellationToken,
) {
    let slots = Arc::new(Semaphore::new(limits.max_connections));
    let server = Arc::new(Server {
        service,
        timeouts: limits.timeouts,
        proxies: Arc::new(limits.proxies),
    });
    let connections = TaskTracker::new();
    let accepting = async {
        loop {
            // Past the cap, connections wait in the kernel's queue.
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
                return;
            };
            let (stream, peer) = accept(&listener).await;
            let connection = connection(Arc::clone(&server), stream, peer, stop.child_token());
            connections.spawn(async move {
                connection.await;
                drop(slot);
            });
        }
    };
    stop.run_until_cancelled(accepting).await;
    drop(listener);
    connections.close();
    let ended = tokio::time::timeout(limits.grace, connections.wait()).await;
    if ended.is_err() {
        tracing::warn!(
            connections = connections.len(),
            "left open at the end of the grace"
        );
    }
}

async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                // A socket that refuses it still works.
                let _ = stream.set_nodelay(true);
                return (stream, peer);
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_BACKOFF).await;
            }
        }
    }
}

/// What all connections share.
struct Server<S> {
    service: S,
    timeouts: Timeouts,
    proxies: Arc<TrustedProxies>,
}

async fn connection<S: Service>(
    server: Arc<Server<S>>,
    stream: TcpStream,
    peer: SocketAddr,
    stop: CancellationToken,
) {
    let _open = server.service.open();
    let phases = Arc::new(Phases::default());
    let io = TokioIo::new(Timed::new(stream, Arc::clone(&phases), server.timeouts));
    let proxies = Arc::clone(&server.proxies);
    let connection = Connection {
        phases,
        peer,
        proxies,
    };
    let shared = Arc::new((server, connection));
    let service = service_fn(move |request| {
        let shared = Arc::clone(&shared);
        async move {
            let (server, connection) = &*shared;
            Ok::<_, Infallible>(server.service.answer(request, connection).await)
        }
    });
    let http = http1::Builder::new()
        .header_read_timeout(None)
        // A crashing app sends its last words and is gone: they count all the same.
        .half_close(true)
        .max_buf_size(MAX_BUFFER_BYTES)
        .serve_connection(io, service);
    let mut http = pin!(http);
    let mut stopped = pin!(stop.cancelled());
    let (mut asked, mut leaving) = (false, false);
    // The token's list of waiters is shared by all connections, so it is asked
    // once, to leave our waker there, and then when it has something to say.
    poll_fn(|cx| {
        if !leaving && (!asked || stop.is_cancelled()) {
            asked = true;
            if stopped.as_mut().poll(cx).is_ready() {
                leaving = true;
                http.as_mut().graceful_shutdown();
            }
        }
        // A peer that hangs up, or is cut off, is no news; its requests were counted.
        http.as_mut().poll(cx).map(drop)
    })
    .await;
}

/// What all requests of a connection share.
pub struct Connection {
    phases: Arc<Phases>,
    /// Of the socket; a proxy may stand between.
    peer: SocketAddr,
    proxies: Arc<TrustedProxies>,
}

impl Connection {
    /// What the connection waits for.
    pub fn phases(&self) -> &Phases {
        &self.phases
    }

    /// Reads the rest of a refused body beside the answer, then idles.
    pub fn drain(&self, body: Incoming) {
        let draining = self.phases.enter(Phase::Drain);
        let phases = Arc::clone(&self.phases);
        tokio::spawn(async move {
            body::drain(body).await;
            phases.follow(draining, Phase::Idle);
        });
    }

    /// Has the request answered in the handler's own time.
    pub async fn hand_over<H: Handler>(
        &self,
        handler: &H,
        request: Request<Incoming>,
    ) -> Response<Working<H::Body>> {
        let ended = Arc::new(Ended(Arc::clone(&self.phases)));
        self.phases.enter(Phase::Working);
        let client = self.proxies.client(self.peer, request.headers());
        let (head, incoming) = request.into_parts();
        let (received, left) = Received::new(incoming);
        let request = Request::from_parts(head, received);
        let response = handler.call(request, client).await;
        if let Some(body) = left.take() {
            self.drain_until(body, Arc::clone(&ended));
        }
        response.map(|body| Working {
            body,
            _ended: ended,
        })
    }

    /// Reads the rest of a body that a handler has left, beside its answer.
    fn drain_until(&self, body: Incoming, ended: Arc<Ended>) {
        let draining = self.phases.enter(Phase::Drain);
        tokio::spawn(async move {
            body::drain(body).await;
            ended.0.follow(draining, Phase::Working);
        });
    }
}

/// Lets the connection idle when the last of an answer is gone, and of its request.
struct Ended(Arc<Phases>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.enter(Phase::Idle);
    }
}

/// The body of an answer that comes in its own time.
pub struct Working<B> {
    body: B,
    _ended: Arc<Ended>,
}

impl<B: AnswerBody> Body for Working<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests;
