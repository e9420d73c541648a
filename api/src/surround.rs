//! What surrounds every route: the request's id, the answers to browsers' checks
//! of origin, panics, failures in the log, and how long it took.
//!
//! It is one service and not a layer for each, because every layer of a router
//! costs each request a copy and a box. What always holds: every response has an
//! id, is counted under its route, and a failure of ours is logged once, in a
//! span that carries the id.

use std::any::Any;
use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::extract::{MatchedPath, Request};
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS, VARY,
};
use axum::http::{HeaderMap, HeaderValue, Method};
use axum::response::{IntoResponse as _, Response};
use dashmap::DashMap;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use metrics::Histogram;
use tower::{Layer, Service};
use tracing::{Instrument as _, Span};
use uuid::Uuid;
use uuid::fmt::Hyphenated;

use crate::error::{ApiError, Cause};
use crate::flags;

/// The header of every response that names its entry in the log.
const REQUEST_ID: &str = "x-request-id";
const ANY: HeaderValue = HeaderValue::from_static("*");
/// What an answer may depend on: in front of any cache, the answer to a check of origin.
const VARY_ON: HeaderValue = HeaderValue::from_static(
    "origin, access-control-request-method, access-control-request-headers",
);
/// A day, in seconds: what browsers remember at most, or more.
const MAX_AGE: HeaderValue = HeaderValue::from_static("86400");
const METHODS: HeaderValue =
    HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");
/// What every client may send; a `*` would not cover `Authorization`.
const HEADERS: &str = "Authorization, X-Project, Content-Type, Content-Encoding";
/// Requests for what no route has.
const UNMATCHED: &str = "unmatched";

/// Surrounds each route; what they share is one.
#[derive(Clone, Default)]
pub(crate) struct SurroundLayer(Arc<Timings>);

impl<S> Layer<S> for SurroundLayer {
    type Service = Surround<S>;

    fn layer(&self, inner: S) -> Surround<S> {
        let timings = Arc::clone(&self.0);
        Surround { inner, timings }
    }
}

/// A route and what surrounds it.
#[derive(Clone)]
pub(crate) struct Surround<S> {
    inner: S,
    timings: Arc<Timings>,
}

impl<S> Service<Request> for Surround<S>
where
    S: Service<Request, Response = Response, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response, Infallible>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let started = Instant::now();
        let timings = Arc::clone(&self.timings);
        let asked = Asked::of(&request);
        if request.method() == Method::OPTIONS {
            let response = preflight(request.headers());
            return Box::pin(async move { Ok(asked.conclude(response, started, &timings)) });
        }
        let answer = AssertUnwindSafe(self.inner.call(request)).catch_unwind();
        Box::pin(async move {
            let answer = match asked.span_ahead() {
                Some(span) => answer.instrument(span).await,
                None => answer.await,
            };
            let mut response = match answer {
                Ok(Ok(response)) => response,
                Err(panic) => panicked(&*panic).into_response(),
            };
            let headers = response.headers_mut();
            headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, ANY);
            Ok(asked.conclude(response, started, &timings))
        })
    }
}

/// What is kept of a request until its answer is there.
struct Asked {
    id: Uuid,
    method: Method,
    path: Option<MatchedPath>,
}

impl Asked {
    fn of(request: &Request) -> Self {
        Self {
            id: new_id(),
            method: request.method().clone(),
            path: request.extensions().get().cloned(),
        }
    }

    fn route(&self) -> &str {
        self.path.as_ref().map_or(UNMATCHED, MatchedPath::as_str)
    }

    fn span(&self) -> Span {
        let (id, method, route) = (self.id.hyphenated(), &self.method, self.route());
        tracing::info_span!("request", %id, %method, route)
    }

    /// The span in which a route runs. Those that answer from memory log nothing
    /// but failures, and get theirs then.
    fn span_ahead(&self) -> Option<Span> {
        (!flags::HOT_ROUTES.contains(&self.route())).then(|| self.span())
    }

    fn conclude(&self, mut response: Response, started: Instant, timings: &Timings) -> Response {
        let status = response.status().as_u16();
        if let Some(Cause(cause)) = response.extensions_mut().remove() {
            let cause = &*cause;
            self.span().in_scope(|| {
                tracing::error!(status, cause, "a request failed for a reason of ours");
            });
        }
        timings.record(&self.method, self.route(), status, started.elapsed());
        let headers = response.headers_mut();
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, ANY);
        // Beside what the answer itself depends on.
        headers.append(VARY, VARY_ON);
        let mut text = [0; Hyphenated::LENGTH];
        let id = self.id.hyphenated().encode_lower(&mut text);
        // Hexadecimal is a header value.
        if let Ok(id) = HeaderValue::from_str(id) {
            headers.insert(REQUEST_ID, id);
        }
        response
    }
}

/// In order of time. Its randomness comes from this thread's generator, because
/// asking the kernel costs as much as answering.
fn new_id() -> Uuid {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let millis = now.unwrap_or_default().as_millis() as u64;
    uuid::Builder::from_unix_timestamp_millis(millis, &rand::random()).into_uuid()
}

/// Any origin, method and header: those that every client may send, and what this one asks for.
fn preflight(asked: &HeaderMap) -> Response {
    let more = asked.get(ACCESS_CONTROL_REQUEST_HEADERS);
    let more = more.and_then(|names| names.to_str().ok());
    let allowed = more.map_or_else(|| HEADERS.to_owned(), |more| format!("{HEADERS}, {more}"));
    let mut response = ().into_response();
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, METHODS);
    headers.insert(ACCESS_CONTROL_MAX_AGE, MAX_AGE);
    // Visible ASCII is a header value.
    if let Ok(allowed) = HeaderValue::from_str(&allowed) {
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, allowed);
    }
    response
}

fn panicked(panic: &(dyn Any + Send)) -> ApiError {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    ApiError::internal(format!("panic: {}", text.unwrap_or("no message")))
}

/// Histograms by route, method and status, looked up once.
#[derive(Default)]
struct Timings(DashMap<Box<str>, Vec<Timing>>);

struct Timing {
    method: &'static str,
    status: u16,
    seconds: Histogram,
}

impl Timings {
    fn record(&self, method: &Method, route: &str, status: u16, took: Duration) {
        let method = known(method);
        let is_it = |timing: &&Timing| timing.status == status && timing.method == method;
        if let Some(timings) = self.0.get(route)
            && let Some(timing) = timings.iter().find(is_it)
        {
            timing.seconds.record(took);
            return;
        }
        let timing = Timing::new(method, route, status);
        timing.seconds.record(took);
        let mut timings = self.0.entry(route.into()).or_default();
        if !timings.iter().any(|timing| is_it(&timing)) {
            timings.push(timing);
        }
    }
}

impl Timing {
    fn new(method: &'static str, route: &str, status: u16) -> Self {
        let labels = [
            ("method", method.to_owned()),
            ("route", route.to_owned()),
            ("status", status.to_string()),
        ];
        Self {
            method,
            status,
            seconds: metrics::histogram!("sluice_api_request_seconds", &labels),
        }
    }
}

/// Strangers choose the method, which is a label.
fn known(method: &Method) -> &'static str {
    const NAMES: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
    let known = NAMES.into_iter().find(|known| *known == method.as_str());
    known.unwrap_or("other")
}
