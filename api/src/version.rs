//! Versions of rows, so that two editors do not overwrite each other (flags.md
//! §13): answers carry one as `ETag`, and a change whose `If-Match` names another
//! is refused with 412. A change without `If-Match` is taken as before.

use std::convert::Infallible;

use axum::extract::FromRequestParts;
use axum::http::HeaderValue;
use axum::http::header::{ETAG, IF_MATCH};
use axum::http::request::Parts;
use axum::response::{IntoResponseParts, ResponseParts};
use chrono::{DateTime, Utc};

use crate::error::{ApiError, ApiResult};

/// Of a row, or of one with all that belongs to it: when it was last changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Version(i64);

impl Version {
    /// Of what was last changed at this time.
    pub(crate) fn of(updated_at: DateTime<Utc>) -> Self {
        // As exact as what is stored.
        Self(updated_at.timestamp_micros())
    }

    fn tag(self) -> String {
        format!("\"{:x}\"", self.0)
    }
}

/// The header `ETag` of the answer.
impl IntoResponseParts for Version {
    type Error = Infallible;

    fn into_response_parts(self, mut parts: ResponseParts) -> Result<ResponseParts, Infallible> {
        let tag = HeaderValue::try_from(self.tag());
        // Hexadecimal in quotes is a header value.
        parts.headers_mut().extend(tag.ok().map(|tag| (ETAG, tag)));
        Ok(parts)
    }
}

/// `If-Match`: the versions, any of which the row must have. None: any it has.
pub(crate) struct IfMatch(Option<String>);

impl<S: Sync> FromRequestParts<S> for IfMatch {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let lists: Vec<_> = parts.headers.get_all(IF_MATCH).iter().collect();
        let texts = lists.iter().map(|list| list.to_str().unwrap_or_default());
        let given = texts.collect::<Vec<_>>().join(",");
        Ok(Self((!lists.is_empty()).then_some(given)))
    }
}

impl IfMatch {
    /// Refuses with 412 a change of another version than the editor saw. As with
    /// conflicts, what is wrong in the body itself comes first (management.md §1.2).
    pub(crate) fn check(&self, version: Version) -> ApiResult<()> {
        let Some(given) = &self.0 else { return Ok(()) };
        let tag = version.tag();
        let mut tags = given.split(',').map(str::trim);
        if tags.any(|given| given == "*" || given == tag) {
            return Ok(());
        }
        Err(ApiError::precondition_failed(
            "it was changed since you read it: read it again",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_taken(if_match: Option<&str>) -> bool {
        let version = Version(0xab);
        IfMatch(if_match.map(str::to_owned)).check(version).is_ok()
    }

    #[test]
    fn only_the_version_that_is_there_is_changed() {
        for taken in [None, Some("*"), Some("\"ab\""), Some("\"1\", \"ab\"")] {
            assert!(is_taken(taken), "{taken:?}");
        }
        // Compared strongly.
        for refused in ["\"1\"", "", "ab", "W/\"ab\""] {
            assert!(!is_taken(Some(refused)), "{refused:?}");
        }
    }
}
