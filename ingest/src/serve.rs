//! The edge behind a listener: it answers its two routes; every other path goes
//! to a [`Handler`], without the edge's limits and time-outs on bodies.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::Full;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use sluice_service::serve::{
    self, AnswerBody, Connection, Handler, Limits, Phase, Received, Service, Working,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::edge::Edge;
use crate::metrics::OpenConnection;
use crate::respond;
use crate::route::Route;

/// Nothing but the edge: 404, and CORS preflight.
#[derive(Clone, Copy, Debug, Default)]
pub struct NotFound;

impl Handler for NotFound {
    type Body = Full<Bytes>;

    async fn call(&self, request: Request<Received>, _: SocketAddr) -> Response<Self::Body> {
        let answer = match *request.method() {
            Method::OPTIONS => respond::preflight(),
            _ => respond::not_found(),
        };
        answer.map(|body| Full::new(body.unwrap_or_default()))
    }
}

/// Serves until `stop` is cancelled, then closes what idles, answers what is in
/// flight, and returns: at the latest after the edge's grace.
pub async fn serve<H: Handler>(
    listener: TcpListener,
    edge: Arc<Edge>,
    rest: H,
    stop: CancellationToken,
) {
    let limits = Limits {
        timeouts: edge.limits.timeouts,
        max_connections: edge.limits.max_connections,
        proxies: edge.limits.proxies.clone(),
        grace: edge.limits.grace,
    };
    serve::serve(listener, EdgeAnd { edge, rest }, limits, stop).await;
}

/// The edge, and whoever answers what is not its.
struct EdgeAnd<H> {
    edge: Arc<Edge>,
    rest: H,
}

impl<H: Handler> Service for EdgeAnd<H> {
    type Body = Answered<H::Body>;
    type Open = OpenConnection;

    fn open(&self) -> OpenConnection {
        self.edge.metrics.connection()
    }

    async fn answer(
        &self,
        request: Request<Incoming>,
        connection: &Connection,
    ) -> Response<Self::Body> {
        let route = Route::of(&self.edge.limits.path_prefix, request.uri().path());
        if let Some(route) = route {
            return self.answer_edge(route, request, connection).await;
        }
        let answer = connection.hand_over(&self.rest, request).await;
        answer.map(Answered::Rest)
    }
}

impl<H: Handler> EdgeAnd<H> {
    async fn answer_edge(
        &self,
        route: Route,
        request: Request<Incoming>,
        connection: &Connection,
    ) -> Response<Answered<H::Body>> {
        let phases = connection.phases();
        phases.enter(Phase::Body);
        let (head, mut incoming) = request.into_parts();
        let answer = self.edge.answer(route, &head, &mut incoming, phases).await;
        if incoming.is_end_stream() {
            phases.enter(Phase::Idle);
        } else {
            connection.drain(incoming);
        }
        answer.map(Answered::Edge)
    }
}

/// The body of an answer, whoever gave it.
enum Answered<B> {
    Edge(Option<Bytes>),
    Rest(Working<B>),
}

impl<B: AnswerBody> Body for Answered<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        match self.get_mut() {
            Self::Edge(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Rest(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Edge(bytes) => bytes.is_none(),
            Self::Rest(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Edge(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Self::Rest(body) => body.size_hint(),
        }
    }
}
