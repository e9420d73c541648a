//! The listener: connections in, answers out, and the end in order.
//!
//! The edge answers its two routes; every other path goes to [`Rest`], without
//! the edge's limits and time-outs on bodies. HTTP/1.1 only.

use std::convert::Infallible;
use std::error::Error;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::body;
use crate::edge::Edge;
use crate::phase::{Phase, Phases, Timed};
use crate::respond;
use crate::route::Route;

/// Bytes that are read at once; a head that has not ended after about as many is refused.
const MAX_BUFFER_BYTES: usize = 64 * 1024;
/// A pause after a failed accept, most likely for want of file descriptors.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);

/// Answers every path that is not the edge's.
pub trait Rest: Send + Sync + 'static {
    /// Of its answers; it may never end.
    type Body: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>>
        + Send
        + Unpin
        + 'static;

    /// Answers a request. `client` is the peer, or what a trusted proxy said of it.
    fn call(
        &self,
        request: Request<Incoming>,
        client: SocketAddr,
    ) -> impl Future<Output = Response<Self::Body>> + Send;
}

/// Nothing but the edge: 404, and CORS preflight.
#[derive(Clone, Copy, Debug, Default)]
pub struct NotFound;

impl Rest for NotFound {
    type Body = http_body_util::Full<Bytes>;

    async fn call(&self, request: Request<Incoming>, _: SocketAddr) -> Response<Self::Body> {
        let answer = match *request.method() {
            Method::OPTIONS => respond::preflight(),
            _ => respond::not_found(),
        };
        answer.map(|body| http_body_util::Full::new(body.unwrap_or_default()))
    }
}

/// Serves until `stop` is cancelled, then closes what idles, answers what is in
/// flight, and returns: at the latest after the edge's grace.
pub async fn serve<R: Rest>(
    listener: TcpListener,
    edge: Arc<Edge>,
    rest: R,
    stop: CancellationToken,
) {
    let grace = edge.limits.grace;
    let slots = Arc::new(Semaphore::new(edge.limits.max_connections));
    let server = Arc::new(Server { edge, rest });
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
    if tokio::time::timeout(grace, connections.wait())
        .await
        .is_err()
    {
        tracing::warn!(
            connections = connections.len(),
            "left open at the end of the grace"
        );
    }
}

async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_BACKOFF).await;
            }
        }
    }
}

/// What all connections share.
struct Server<R> {
    edge: Arc<Edge>,
    rest: R,
}

/// What all requests of a connection share.
struct Connection<R> {
    server: Arc<Server<R>>,
    phases: Arc<Phases>,
    peer: SocketAddr,
}

async fn connection<R: Rest>(
    server: Arc<Server<R>>,
    stream: TcpStream,
    peer: SocketAddr,
    stop: CancellationToken,
) {
    let _open = server.edge.metrics.connection();
    // A socket that refuses it still works.
    let _ = stream.set_nodelay(true);
    let phases = Arc::new(Phases::default());
    let timeouts = server.edge.limits.timeouts;
    let io = TokioIo::new(Timed::new(stream, Arc::clone(&phases), timeouts));
    let shared = Arc::new(Connection {
        server,
        phases,
        peer,
    });
    let service = service_fn(move |request| {
        let shared = Arc::clone(&shared);
        async move { Ok::<_, Infallible>(shared.answer(request).await) }
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

impl<R: Rest> Connection<R> {
    async fn answer(&self, request: Request<Incoming>) -> Response<Answered<R::Body>> {
        let edge = &self.server.edge;
        match Route::of(&edge.limits.path_prefix, request.uri().path()) {
            Some(route) => self.answer_edge(route, request).await,
            None => self.answer_rest(request).await,
        }
    }

    async fn answer_edge(
        &self,
        route: Route,
        request: Request<Incoming>,
    ) -> Response<Answered<R::Body>> {
        self.phases.enter(Phase::Body);
        let (head, mut incoming) = request.into_parts();
        let edge = &self.server.edge;
        let answer = edge.answer(route, &head, &mut incoming, &self.phases).await;
        if incoming.is_end_stream() {
            self.phases.enter(Phase::Idle);
        } else {
            self.drain(incoming);
        }
        answer.map(Answered::Edge)
    }

    /// Reads the rest of a refused body beside the answer.
    fn drain(&self, incoming: Incoming) {
        let draining = self.phases.enter(Phase::Drain);
        let phases = Arc::clone(&self.phases);
        tokio::spawn(async move {
            body::drain(incoming).await;
            phases.follow(draining, Phase::Idle);
        });
    }

    async fn answer_rest(&self, request: Request<Incoming>) -> Response<Answered<R::Body>> {
        self.phases.enter(Phase::Working);
        let ended = Ended(Arc::clone(&self.phases));
        let proxies = &self.server.edge.limits.proxies;
        let client = proxies.client(self.peer, request.headers());
        let response = self.server.rest.call(request, client).await;
        response.map(|body| Answered::Rest {
            body,
            _ended: ended,
        })
    }
}

/// Lets the connection idle when the last of an answer is gone.
struct Ended(Arc<Phases>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.enter(Phase::Idle);
    }
}

/// The body of an answer, whoever gave it.
enum Answered<B> {
    Edge(Option<Bytes>),
    Rest { body: B, _ended: Ended },
}

impl<B: Body<Data = Bytes> + Unpin> Body for Answered<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        match self.get_mut() {
            Self::Edge(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Rest { body, .. } => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Edge(bytes) => bytes.is_none(),
            Self::Rest { body, .. } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Edge(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Self::Rest { body, .. } => body.size_hint(),
        }
    }
}
