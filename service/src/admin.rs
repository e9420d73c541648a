//! The admin port: `/metrics`, `/healthz`, `/readyz`.
//!
//! `/healthz` says that the process answers. `/readyz` says whether it can do
//! its job: 200, or 503 with every reason. It is for operators and their
//! tools; it must not be reachable from outside.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;

use crate::config::ConfigReader;
use crate::metrics::MetricsHandle;

const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// A pause after a failed accept, most likely for want of file descriptors.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
const JSON: &str = "application/json";

/// Where the admin port listens.
#[derive(Clone, Copy, Debug)]
pub struct AdminConfig {
    /// `SLUICE_ADMIN_LISTEN`: address and port. The default is the binary's choice, on loopback.
    pub listen: SocketAddr,
}

impl AdminConfig {
    /// Reads it; services that share a machine need default ports of their own.
    pub fn read(reader: &mut ConfigReader, default_port: u16) -> Self {
        let default = SocketAddr::from(([127, 0, 0, 1], default_port));
        Self {
            listen: reader.value("SLUICE_ADMIN_LISTEN", default),
        }
    }
}

type Check = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// The named checks that say whether this process can do its job.
#[derive(Clone, Default)]
pub struct Readiness {
    checks: Arc<Mutex<Vec<(&'static str, Check)>>>,
    stopping: Arc<AtomicBool>,
}

/// A check that its component sets when something changes.
#[derive(Clone)]
pub struct Signal(Arc<Mutex<Result<(), String>>>);

impl Signal {
    /// From now on ready, or not ready for a reason.
    pub fn set(&self, state: Result<(), String>) {
        *lock(&self.0) = state;
    }
}

impl Readiness {
    /// No checks yet: ready.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a check that is asked at every request; it must not block. It takes
    /// the place of no other: those of one name must all hold.
    pub fn register(
        &self,
        name: &'static str,
        check: impl Fn() -> Result<(), String> + Send + Sync + 'static,
    ) {
        lock(&self.checks).push((name, Arc::new(check)));
    }

    /// Adds a check that is set from outside. Not ready until it is.
    pub fn signal(&self, name: &'static str) -> Signal {
        let signal = Signal(Arc::new(Mutex::new(Err("starting".to_owned()))));
        let state = Arc::clone(&signal.0);
        self.register(name, move || lock(&state).clone());
        signal
    }

    /// Not ready from now on: the first step of a shutdown, so that a load
    /// balancer looks elsewhere before the port closes.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// What stands in the way, by name of the check. Empty: ready.
    pub fn reasons(&self) -> BTreeMap<&'static str, String> {
        let checks = lock(&self.checks).clone();
        let mut failing = BTreeMap::<_, Vec<String>>::new();
        for (name, check) in checks {
            let reasons = check().err();
            failing.entry(name).or_default().extend(reasons);
        }
        failing.retain(|_, reasons| !reasons.is_empty());
        let mut reasons: BTreeMap<_, _> = failing
            .into_iter()
            .map(|(name, reasons)| (name, reasons.join("; ")))
            .collect();
        if self.stopping.load(Ordering::Relaxed) {
            reasons.insert("process", "shutting down".to_owned());
        }
        reasons
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every guarded value is replaced whole, so a panic elsewhere leaves it valid.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Serves the admin port until it is dropped.
pub async fn serve(listener: TcpListener, metrics: MetricsHandle, readiness: Readiness) {
    tokio::join!(
        metrics.keep_small(),
        accept_all(listener, Arc::new((metrics.clone(), readiness))),
    );
}

async fn accept_all(listener: TcpListener, state: Arc<(MetricsHandle, Readiness)>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_BACKOFF).await;
            continue;
        };
        let state = Arc::clone(&state);
        let service = service_fn(move |request: Request<Incoming>| {
            let response = answer(request.method(), request.uri().path(), &state.0, &state.1);
            std::future::ready(Ok::<_, Infallible>(response))
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .serve_connection(TokioIo::new(stream), service);
        // A scraper that hangs up is no news.
        tokio::spawn(async { drop(connection.await) });
    }
}

fn answer(
    method: &Method,
    path: &str,
    metrics: &MetricsHandle,
    readiness: &Readiness,
) -> Response<Full<Bytes>> {
    if !matches!(*method, Method::GET | Method::HEAD) {
        let mut response = respond(StatusCode::METHOD_NOT_ALLOWED, TEXT, String::new());
        response
            .headers_mut()
            .insert(ALLOW, hyper::header::HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match path {
        "/metrics" => respond(StatusCode::OK, TEXT, metrics.render()),
        "/healthz" => respond(StatusCode::OK, TEXT, "ok\n".to_owned()),
        "/readyz" => ready(readiness),
        _ => respond(StatusCode::NOT_FOUND, TEXT, "not found\n".to_owned()),
    }
}

fn ready(readiness: &Readiness) -> Response<Full<Bytes>> {
    let reasons = readiness.reasons();
    let ready = reasons.is_empty();
    let status = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let body = serde_json::json!({ "ready": ready, "reasons": reasons });
    respond(status, JSON, body.to_string())
}

fn respond(status: StatusCode, content_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    let value = hyper::header::HeaderValue::from_static(content_type);
    response.headers_mut().insert(CONTENT_TYPE, value);
    response
}

#[cfg(test)]
mod tests;
