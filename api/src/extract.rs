//! Extractors that refuse in JSON and in the order of management.md §1.2.
//!
//! A handler takes, in this order: a scope (401, 400, 404, 403), [`Path`],
//! [`Query`], and one of the bodies; axum runs them in the order of the
//! arguments.

use std::borrow::Cow;
use std::time::Duration;

use axum::extract::rejection::{PathRejection, RawPathParamsRejection};
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::request::Parts;
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;
use sluice_schema::wire::repair_lone_surrogates;
use tokio::time::timeout;

use crate::error::ApiError;

/// The largest JSON body, in bytes.
pub const JSON_LIMIT_BYTES: usize = 2 * 1024 * 1024;

/// How long a JSON body may take to arrive, as at the edge.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// Parameters in the path, percent-decoded.
#[derive(Debug)]
pub struct Path<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Path<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let extracted = axum::extract::Path::from_request_parts(parts, state).await;
        extracted
            .map(|axum::extract::Path(value)| Self(value))
            .map_err(ApiError::from)
    }
}

impl From<PathRejection> for ApiError {
    fn from(rejection: PathRejection) -> Self {
        match rejection {
            PathRejection::FailedToDeserializePathParams(error) => {
                Self::bad_request(format!("bad path: {}", error.body_text()))
            }
            other => Self::internal(other.body_text()),
        }
    }
}

impl From<RawPathParamsRejection> for ApiError {
    fn from(rejection: RawPathParamsRejection) -> Self {
        Self::bad_request(format!("bad path: {}", rejection.body_text()))
    }
}

/// Parameters in the query. An empty value (`?search=`) equals an absent one;
/// unknown keys are ignored.
#[derive(Debug)]
pub struct Query<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        parse_query(parts.uri.query().unwrap_or_default()).map(Self)
    }
}

fn parse_query<T: DeserializeOwned>(query: &str) -> Result<T, ApiError> {
    let given = if query.split('&').all(has_value) {
        Cow::Borrowed(query)
    } else {
        let given: Vec<_> = query.split('&').filter(|pair| has_value(pair)).collect();
        Cow::Owned(given.join("&"))
    };
    let pairs = || serde_urlencoded::Deserializer::new(form_urlencoded::parse(given.as_bytes()));
    // Where it went wrong is found out only if something did.
    T::deserialize(pairs()).or_else(|_| {
        serde_path_to_error::deserialize(pairs())
            .map_err(|error| ApiError::bad_request(format!("bad query: {error}")))
    })
}

fn has_value(pair: &str) -> bool {
    pair.split_once('=')
        .is_some_and(|(_, value)| !value.is_empty())
}

/// A JSON body of at most `LIMIT_BYTES`.
#[derive(Debug)]
pub struct JsonBody<T, const LIMIT_BYTES: usize = JSON_LIMIT_BYTES>(pub T);

impl<S: Send + Sync, T: DeserializeOwned, const LIMIT_BYTES: usize> FromRequest<S>
    for JsonBody<T, LIMIT_BYTES>
{
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        check_length(request.headers(), LIMIT_BYTES)?;
        if !is_json(request.headers()) {
            return Err(ApiError::unsupported_media_type("application/json"));
        }
        let bytes = read(request, LIMIT_BYTES).await?;
        parse_json(&bytes).map(Self)
    }
}

pub(crate) fn check_length(headers: &HeaderMap, limit_bytes: usize) -> Result<(), ApiError> {
    let length = headers
        .get(CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok());
    match length.and_then(|length| length.parse::<usize>().ok()) {
        Some(length) if length > limit_bytes => Err(ApiError::too_large(limit_bytes)),
        _ => Ok(()),
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let content_type = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    let essence = content_type
        .unwrap_or_default()
        .split(';')
        .next()
        .unwrap_or_default();
    let essence = essence.trim().to_ascii_lowercase();
    essence == "application/json"
        || (essence.starts_with("application/") && essence.ends_with("+json"))
}

async fn read(request: Request, limit_bytes: usize) -> Result<Bytes, ApiError> {
    let body = Limited::new(request.into_body(), limit_bytes);
    let collected = timeout(BODY_TIMEOUT, body.collect()).await;
    match collected.map_err(|_| ApiError::timed_out("the body arrives too slowly"))? {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(ApiError::too_large(limit_bytes)),
        Err(_) => Err(ApiError::bad_request("the body ended early")),
    }
}

/// An object, as every body is: serde would take a list of the fields' values too.
fn parse_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    if bytes
        .trim_ascii_start()
        .first()
        .is_some_and(|first| *first == b'[')
    {
        return Err(ApiError::bad_request("bad body: expected an object"));
    }
    // Where it went wrong is found out only if something did.
    if let Ok(value) = serde_json::from_slice(bytes) {
        return Ok(value);
    }
    // JavaScript writes half an emoji as an escape that parsers refuse.
    let mut repaired = bytes.to_vec();
    repair_lone_surrogates(&mut repaired);
    let mut deserializer = serde_json::Deserializer::from_slice(&repaired);
    let value = serde_path_to_error::deserialize(&mut deserializer)
        .map_err(|error| ApiError::bad_request(describe(&error)))?;
    deserializer
        .end()
        .map_err(|error| ApiError::bad_request(format!("bad JSON: {error}")))?;
    Ok(value)
}

/// Names the field where there is one; a missing field already names itself.
fn describe(error: &serde_path_to_error::Error<serde_json::Error>) -> String {
    if !error.inner().is_data() {
        return format!("bad JSON: {}", error.inner());
    }
    let path = error.path().to_string();
    match path.as_str() {
        "." => format!("bad body: {}", error.inner()),
        _ => format!("{path}: {}", error.inner()),
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use axum::http::StatusCode;
    use futures_util::{StreamExt as _, stream};
    use proptest::prelude::*;
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    struct Probe {
        search: Option<String>,
        limit: Option<i64>,
    }

    #[derive(Debug, Deserialize)]
    struct Body {
        #[allow(dead_code)]
        conditions: Vec<Condition>,
    }

    #[derive(Debug, Deserialize)]
    struct Condition {
        #[allow(dead_code)]
        attribute: String,
    }

    #[test]
    fn an_empty_query_value_is_an_absent_one() {
        let probe: Probe = parse_query("search=&limit=5&unknown=1").unwrap();
        assert_eq!(
            probe,
            Probe {
                search: None,
                limit: Some(5)
            }
        );
        let probe: Probe = parse_query("search=a%26b+c").unwrap();
        assert_eq!(probe.search.as_deref(), Some("a&b c"));
    }

    #[test]
    fn a_bad_query_value_names_its_key() {
        let error = parse_query::<Probe>("limit=ten").unwrap_err();
        assert!(format!("{error:?}").contains("limit"), "{error:?}");
    }

    #[test]
    fn a_bad_body_names_its_field() {
        let error = parse_json::<Body>(br#"{"conditions":[{"attribute":1}]}"#).unwrap_err();
        assert!(
            format!("{error:?}").contains("conditions[0].attribute"),
            "{error:?}"
        );
        let error = parse_json::<Body>(b"{}").unwrap_err();
        assert!(format!("{error:?}").contains("conditions"), "{error:?}");
        for malformed in ["", "{", r#"{"conditions":[}"#, r#"{"conditions":[]} x"#] {
            let error = parse_json::<Body>(malformed.as_bytes()).unwrap_err();
            assert!(error.message().starts_with("bad JSON: "), "{error:?}");
        }
        assert!(parse_json::<Body>(b" [[]]").is_err());
    }

    #[test]
    fn half_an_emoji_is_a_character_nobody_knows() {
        let body = parse_json::<Probe>(br#"{"search":"cut \ud83d","limit":1}"#).unwrap();
        assert_eq!(body.search.as_deref(), Some("cut \u{fffd}"));
        assert!(parse_json::<Probe>(br#"{"search":"cut \ud83d"#).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_trickles_is_given_up() {
        let trickle = stream::repeat_with(|| Ok::<_, Infallible>(Bytes::from_static(b" ")));
        let trickle = trickle.then(|byte| async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            byte
        });
        let request = Request::post("/").header(CONTENT_TYPE, "application/json");
        let request = request
            .body(axum::body::Body::from_stream(trickle))
            .unwrap();
        let begun = tokio::time::Instant::now();
        let refused = JsonBody::<Probe>::from_request(request, &()).await;
        assert_eq!(refused.unwrap_err().status(), StatusCode::REQUEST_TIMEOUT);
        assert_eq!(begun.elapsed(), BODY_TIMEOUT);
    }

    proptest! {
        #[test]
        fn no_query_and_no_body_panics(text in ".*", bytes in any::<Vec<u8>>()) {
            let _ = parse_query::<Probe>(&text);
            let _ = parse_json::<Body>(&bytes);
        }
    }
}
