//! Answers: CORS on each of them (telemetry.md §2.8), errors as JSON
//! (management.md §1.2).

use bytes::Bytes;
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_MAX_AGE, ALLOW, CONTENT_TYPE, RETRY_AFTER, VARY, WWW_AUTHENTICATE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use uuid::Uuid;

use crate::outcome::Outcome;

const ANY: HeaderValue = HeaderValue::from_static("*");
const VARY_ON: HeaderValue = HeaderValue::from_static(
    "origin, access-control-request-method, access-control-request-headers",
);
const METHODS: HeaderValue =
    HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");
/// A `*` would not cover `Authorization` in browsers.
const HEADERS: HeaderValue =
    HeaderValue::from_static("Authorization, X-Project, Content-Type, Content-Encoding");
/// A day, in seconds.
const MAX_AGE: HeaderValue = HeaderValue::from_static("86400");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const POST: HeaderValue = HeaderValue::from_static("POST");
const BEARER: HeaderValue = HeaderValue::from_static("Bearer");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The body of an answer of the edge; `None` where there is none.
pub(crate) type Answer = Response<Option<Bytes>>;

/// The answer to a request that ended in `outcome`.
pub(crate) fn answer(outcome: &Outcome) -> Answer {
    let mut response = match outcome.message() {
        None => bare(outcome.status()),
        Some(message) => error(outcome.status(), outcome.label(), &message),
    };
    let headers = response.headers_mut();
    match outcome {
        Outcome::Preflight => preflight_headers(headers),
        Outcome::Method => drop(headers.insert(ALLOW, POST)),
        Outcome::Unauthorized => drop(headers.insert(WWW_AUTHENTICATE, BEARER)),
        _ => {}
    }
    if let Some(seconds) = outcome.retry_after_s() {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    if outcome.status().is_server_error() {
        stamp(headers, outcome);
    }
    response
}

/// The answer to any `OPTIONS`.
pub(crate) fn preflight() -> Answer {
    answer(&Outcome::Preflight)
}

/// The answer to a path that nobody serves.
pub(crate) fn not_found() -> Answer {
    error(StatusCode::NOT_FOUND, "not_found", "Not found")
}

/// Names the request for the client and for the log.
fn stamp(headers: &mut HeaderMap, outcome: &Outcome) {
    let id = Uuid::now_v7().to_string();
    // One line a request would drown the log that has the cause, so only for those who ask.
    tracing::debug!(
        request_id = id,
        outcome = outcome.label(),
        "request refused"
    );
    if let Ok(value) = HeaderValue::from_str(&id) {
        headers.insert(REQUEST_ID, value);
    }
}

fn bare(status: StatusCode) -> Answer {
    let mut response = Response::new(None);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.reserve(4);
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, ANY);
    headers.insert(VARY, VARY_ON);
    response
}

fn error(status: StatusCode, code: &str, message: &str) -> Answer {
    let mut response = bare(status);
    let body = serde_json::json!({ "error": message, "code": code });
    *response.body_mut() = Some(Bytes::from(body.to_string()));
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    response
}

fn preflight_headers(headers: &mut HeaderMap) {
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, METHODS);
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HEADERS);
    headers.insert(ACCESS_CONTROL_MAX_AGE, MAX_AGE);
}
