//! Every refusal and every failure, as the client sees it (management.md §1.2).
//!
//! Handlers return [`ApiError`]; `?` turns driver errors into it. What the
//! client caused names its cause. What we caused is opaque: the detail goes to
//! the log, once, under the request id that the response carries.
//!
//! Violated constraints become answers in [`conflict_of`], by SQLSTATE and
//! constraint name.

use std::borrow::Cow;
use std::error::Error;
use std::sync::Arc;

use axum::Json;
use axum::http::header::{RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

/// A dependency that is away is asked again by well-behaved clients after this.
const RETRY_AFTER_S: u32 = 2;

/// The body of every answer that is not a success.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErrorBody {
    /// For people; not to be parsed.
    pub error: Cow<'static, str>,
    /// For machines.
    pub code: &'static str,
}

/// An answer that is not a success.
#[derive(Debug)]
pub struct ApiError {
    status: StatusCode,
    code: &'static str,
    message: Cow<'static, str>,
    retry_after_s: Option<u32>,
    cause: Option<Box<dyn Error + Send + Sync>>,
}

/// Why we failed, on its way to the log with the response.
#[derive(Clone)]
pub(crate) struct Cause(pub(crate) Arc<dyn Error + Send + Sync>);

/// Result of a handler or a store.
pub type ApiResult<T> = Result<T, ApiError>;

impl ApiError {
    fn new(status: StatusCode, code: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            status,
            code,
            message: message.into(),
            retry_after_s: None,
            cause: None,
        }
    }

    /// 400: the request is wrong; the message says where.
    pub fn bad_request(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request", message)
    }

    /// 401: no credential, or one that is not valid.
    pub fn unauthorized(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", message)
    }

    /// 403: the credential may not do this.
    pub fn forbidden(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", message)
    }

    /// 404: `what` does not exist, or belongs to someone else.
    pub fn not_found(what: &str) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "not_found",
            format!("{what} not found"),
        )
    }

    /// 405: the path is known, the method is not.
    pub fn method_not_allowed() -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "method_not_allowed",
            "method not allowed",
        )
    }

    /// 408: the client takes too long to send its request.
    pub fn timed_out(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, "timed_out", message)
    }

    /// 409: the state of things forbids it.
    pub fn conflict(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::CONFLICT, "conflict", message)
    }

    /// 412: it is not what the client thinks it is.
    pub fn precondition_failed(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(
            StatusCode::PRECONDITION_FAILED,
            "precondition_failed",
            message,
        )
    }

    /// 413: the body is larger than the route takes.
    pub fn too_large(limit_bytes: usize) -> Self {
        let message = format!("the body is larger than {limit_bytes} bytes");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "payload_too_large", message)
    }

    /// 415: the body is not of the type that the route takes.
    pub fn unsupported_media_type(expected: &str) -> Self {
        let message = format!("Content-Type must be {expected}");
        Self::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported_media_type",
            message,
        )
    }

    /// 416: the range lies outside of the file.
    pub fn range_not_satisfiable() -> Self {
        Self::new(
            StatusCode::RANGE_NOT_SATISFIABLE,
            "range_not_satisfiable",
            "the range lies outside of the file",
        )
    }

    /// 429: too often; try again after so many seconds.
    pub fn too_many_requests(message: impl Into<Cow<'static, str>>, retry_after_s: u32) -> Self {
        let error = Self::new(StatusCode::TOO_MANY_REQUESTS, "too_many_requests", message);
        Self {
            retry_after_s: Some(retry_after_s),
            ..error
        }
    }

    /// 500: our fault. The cause is logged, not shown.
    pub fn internal(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        let error = Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "internal error",
        );
        Self {
            cause: Some(cause.into()),
            ..error
        }
    }

    /// 503: a dependency is away. The cause is logged, not shown.
    pub fn unavailable(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        let message = "temporarily unavailable, try again";
        let error = Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message);
        Self {
            cause: Some(cause.into()),
            retry_after_s: Some(RETRY_AFTER_S),
            ..error
        }
    }

    /// 503: there is too much to do; try again after so many seconds.
    pub fn busy(message: impl Into<Cow<'static, str>>, retry_after_s: u32) -> Self {
        let error = Self::new(StatusCode::SERVICE_UNAVAILABLE, "busy", message);
        Self {
            retry_after_s: Some(retry_after_s),
            ..error
        }
    }

    /// The status of the answer.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// What the client is told.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = ErrorBody {
            error: self.message,
            code: self.code,
        };
        let mut response = (self.status, Json(body)).into_response();
        let headers = response.headers_mut();
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(seconds) = self.retry_after_s {
            headers.insert(RETRY_AFTER, seconds.into());
        }
        if let Some(cause) = self.cause {
            response.extensions_mut().insert(Cause(cause.into()));
        }
        response
    }
}

impl From<sqlx::Error> for ApiError {
    fn from(error: sqlx::Error) -> Self {
        use sqlx::Error::{Database, Io, PoolClosed, PoolTimedOut, Protocol, WorkerCrashed};
        match &error {
            Database(database) => {
                let state = database.code().unwrap_or_default();
                match of_sqlstate(&state, database.constraint()) {
                    Some(answer) => answer,
                    None if is_transient(&state) => Self::unavailable(error),
                    None => Self::internal(error),
                }
            }
            Io(_) | PoolClosed | PoolTimedOut | Protocol(_) | WorkerCrashed => {
                Self::unavailable(error)
            }
            _ => Self::internal(error),
        }
    }
}

impl From<clickhouse::error::Error> for ApiError {
    fn from(error: clickhouse::error::Error) -> Self {
        use clickhouse::error::Error::{Network, TimedOut};
        match error {
            Network(_) | TimedOut => Self::unavailable(error),
            _ => Self::internal(error),
        }
    }
}

/// What the client did wrong, if a database error says so.
fn of_sqlstate(state: &str, constraint: Option<&str>) -> Option<ApiError> {
    match state {
        // Who may act in a project was known before: it was deleted meanwhile.
        "23503" if constraint.is_some_and(|name| name.ends_with("_project_id_fkey")) => {
            Some(ApiError::not_found("project"))
        }
        // unique_violation, foreign_key_violation, restrict_violation
        "23505" | "23503" | "23001" => {
            conflict_of(constraint.unwrap_or_default()).map(ApiError::conflict)
        }
        // character_not_in_repertoire, untranslatable_character
        "22021" | "22P05" => Some(ApiError::bad_request(
            "texts must not contain the character U+0000",
        )),
        _ => None,
    }
}

/// The text of the 409 that a violated constraint means.
fn conflict_of(constraint: &str) -> Option<&'static str> {
    Some(match constraint {
        "users_email_key" => "this e-mail address already has an account",
        "projects_slug_key" => "this slug is taken",
        "memberships_pkey" => "this user is already a member of the project",
        "branches_name_key" => "a branch of this name already exists",
        "channels_name_key" => "a channel of this name already exists",
        "channels_branch_fkey" | "channels_rollout_branch_fkey" => "a channel uses this branch",
        "user_overrides_branch_fkey" => "a user override points at this branch",
        "updates_build_fkey" => "an update was published from this build",
        "updates_rollback_target_fkey" => "a rollback targets this update",
        "flags_key_key" => "a flag with this key already exists",
        "segments_key_key" => "a segment with this key already exists",
        _ => return None,
    })
}

/// Whether the same statement may succeed a moment later.
fn is_transient(state: &str) -> bool {
    // Connection exceptions, insufficient resources, operator intervention,
    // serialization failure, deadlock.
    ["08", "53", "57"]
        .iter()
        .any(|class| state.starts_with(class))
        || matches!(state, "40001" | "40P01")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_failures_are_opaque_and_say_when_to_come_back() {
        let response = ApiError::unavailable("connection to 10.0.0.7 refused").into_response();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers()[RETRY_AFTER], "2");
        let error = ApiError::internal("select * from secrets");
        assert_eq!(error.message, "internal error");
    }

    #[test]
    fn violations_are_told_by_their_constraint() {
        let conflict = of_sqlstate("23505", Some("flags_key_key")).expect("a known constraint");
        assert_eq!(conflict.status(), StatusCode::CONFLICT);
        assert!(of_sqlstate("23505", Some("someone_elses_key")).is_none());
        let gone = of_sqlstate("23503", Some("blobs_project_id_fkey")).expect("a known constraint");
        assert_eq!(gone.status(), StatusCode::NOT_FOUND);
        assert!(of_sqlstate("42P01", None).is_none());
    }

    #[test]
    fn a_server_that_shuts_down_is_away_and_a_syntax_error_is_a_bug() {
        assert!(is_transient("57P01") && is_transient("08006") && is_transient("40P01"));
        assert!(!is_transient("42601") && !is_transient("23514"));
    }
}
