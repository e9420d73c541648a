//! Bodies that are worth sending only to a client that has another (flags.md §9).

use std::convert::Infallible;

use axum::extract::FromRequestParts;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};

/// For answers that depend on the device.
const PRIVATE: HeaderValue = HeaderValue::from_static("private, max-age=0, must-revalidate");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// `If-None-Match`: the entity tags that the client has.
pub(super) struct KnownTags(Vec<HeaderValue>);

impl<S: Sync> FromRequestParts<S> for KnownTags {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let lists = parts.headers.get_all(IF_NONE_MATCH);
        Ok(Self(lists.iter().cloned().collect()))
    }
}

impl KnownTags {
    /// Whether it (lists, `*`, weakly compared) names `etag`.
    fn hold(&self, etag: &HeaderValue) -> bool {
        let lists = self.0.iter().filter_map(|list| list.to_str().ok());
        let mut tags = lists.flat_map(|list| list.split(',')).map(str::trim);
        tags.any(|tag| {
            tag == "*" || tag.strip_prefix("W/").unwrap_or(tag).as_bytes() == etag.as_bytes()
        })
    }
}

/// The JSON `body`, or 304 if the client has it.
pub(super) fn tagged(
    known: &KnownTags,
    etag: &HeaderValue,
    body: impl FnOnce() -> Response,
) -> Response {
    let mut response = if known.hold(etag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        let mut response = body();
        response.headers_mut().insert(CONTENT_TYPE, JSON);
        response
    };
    response.headers_mut().insert(ETAG, etag.clone());
    response.headers_mut().insert(CACHE_CONTROL, PRIVATE);
    response
}
