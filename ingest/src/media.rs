//! What a request's headers say of its body (telemetry.md §2.5 and §2.8).

use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use sluice_schema::wire::MAX_BODY_BYTES;

use crate::outcome::Outcome;

/// How a body was compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    Identity,
    Gzip,
    Zstd,
}

/// Checks the headers before a byte of the body is read.
pub(crate) fn check(headers: &HeaderMap) -> Result<Encoding, Outcome> {
    let content_type = headers.get(CONTENT_TYPE).map(|v| v.as_bytes());
    if !content_type.is_some_and(is_json) {
        return Err(Outcome::ContentType);
    }
    let encoding = encoding(headers)?;
    if declared_bytes(headers) > MAX_BODY_BYTES as u64 {
        return Err(Outcome::TooLarge);
    }
    Ok(encoding)
}

/// `Content-Length`, 0 where there is none; hyper has checked that it is a number.
pub(crate) fn declared_bytes(headers: &HeaderMap) -> u64 {
    headers
        .get(CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse().ok())
        .unwrap_or(0)
}

/// `application/json` or `application/*+json`, with or without parameters.
fn is_json(value: &[u8]) -> bool {
    if value == b"application/json" {
        return true;
    }
    let essence = value.split(|byte| *byte == b';').next().unwrap_or_default();
    let essence = essence.trim_ascii().to_ascii_lowercase();
    essence
        .strip_prefix(b"application/")
        .is_some_and(|subtype| subtype == b"json" || subtype.ends_with(b"+json"))
}

fn encoding(headers: &HeaderMap) -> Result<Encoding, Outcome> {
    let mut values = headers.get_all(CONTENT_ENCODING).iter();
    let value = match (values.next(), values.next()) {
        (None, _) => return Ok(Encoding::Identity),
        (Some(value), None) => value.as_bytes().trim_ascii(),
        (Some(_), Some(_)) => return Err(Outcome::ContentEncoding),
    };
    let is = |name: &str| value.eq_ignore_ascii_case(name.as_bytes());
    if is("gzip") {
        Ok(Encoding::Gzip)
    } else if is("zstd") {
        Ok(Encoding::Zstd)
    } else if is("identity") || value.is_empty() {
        Ok(Encoding::Identity)
    } else {
        Err(Outcome::ContentEncoding)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_told_by_its_essence() {
        for json in [
            "application/json",
            "Application/JSON",
            "application/json; charset=utf-8",
            "application/json;charset=utf-8",
            "application/vnd.api+json",
        ] {
            assert!(is_json(json.as_bytes()), "{json}");
        }
        for other in [
            "",
            "text/plain",
            "text/json",
            "application/jsonp",
            "application/json+xml",
            "json",
        ] {
            assert!(!is_json(other.as_bytes()), "{other}");
        }
    }
}
