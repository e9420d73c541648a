//! How a request ends: the one list of answers that the edge gives.
//!
//! The status, the body, the metric label and whether the client may come back
//! all follow from the [`Outcome`]; there is no other way to make an answer.

use std::borrow::Cow;
use std::time::Duration;

use http::StatusCode;
use sluice_eventlog::committer::SubmitError;
use sluice_schema::wire;

/// What became of a request. Each is a label of the request counter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Durable: 204.
    Accepted,
    /// A CORS preflight: 204.
    Preflight,
    /// Anything but POST or OPTIONS.
    Method,
    /// Not JSON by its header.
    ContentType,
    /// Neither gzip, zstd nor identity.
    ContentEncoding,
    /// Past 2 MiB, as sent or inflated.
    TooLarge,
    /// The body did not come in time.
    Slow,
    /// The body broke off.
    BrokenOff,
    /// The body does not inflate.
    Inflate,
    /// The body is refused as a whole.
    Invalid(wire::Refusal),
    /// No credential, or none that is known.
    Unauthorized,
    /// A session that names no project.
    ProjectMissing,
    /// No such project, or not one of the caller's.
    UnknownProject,
    /// Past the project's rate.
    RateLimited {
        /// Whole seconds, at least 1.
        retry_after_s: u32,
    },
    /// Too many bodies are being gathered.
    Overloaded,
    /// The log or its queue is full. Nothing was stored.
    LogFull {
        /// When a retry makes sense.
        retry_after: Duration,
    },
    /// The log refuses or lost track: it may or may not be stored.
    LogUnavailable,
    /// A credential that only Postgres could know, and Postgres is away.
    DirectoryUnavailable,
    /// The client left before its answer. It may or may not be stored.
    Abandoned,
}

impl Outcome {
    /// Every label, so that zeros are visible.
    pub(crate) const LABELS: [&'static str; 19] = [
        "accepted",
        "preflight",
        "method_not_allowed",
        "unsupported_content_type",
        "unsupported_content_encoding",
        "too_large",
        "timeout",
        "incomplete_body",
        "invalid_encoding",
        "invalid_body",
        "unauthorized",
        "project_missing",
        "project_not_found",
        "rate_limited",
        "overloaded",
        "log_full",
        "log_unavailable",
        "directory_unavailable",
        "abandoned",
    ];

    /// Index into [`Self::LABELS`].
    pub(crate) fn index(&self) -> usize {
        match self {
            Self::Accepted => 0,
            Self::Preflight => 1,
            Self::Method => 2,
            Self::ContentType => 3,
            Self::ContentEncoding => 4,
            Self::TooLarge => 5,
            Self::Slow => 6,
            Self::BrokenOff => 7,
            Self::Inflate => 8,
            Self::Invalid(_) => 9,
            Self::Unauthorized => 10,
            Self::ProjectMissing => 11,
            Self::UnknownProject => 12,
            Self::RateLimited { .. } => 13,
            Self::Overloaded => 14,
            Self::LogFull { .. } => 15,
            Self::LogUnavailable => 16,
            Self::DirectoryUnavailable => 17,
            Self::Abandoned => 18,
        }
    }

    /// The metric label, and the `code` of the answer.
    pub(crate) fn label(&self) -> &'static str {
        Self::LABELS[self.index()]
    }

    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::Accepted | Self::Preflight => StatusCode::NO_CONTENT,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::ContentType | Self::ContentEncoding => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Slow => StatusCode::REQUEST_TIMEOUT,
            Self::BrokenOff | Self::Inflate | Self::Invalid(_) | Self::ProjectMissing => {
                StatusCode::BAD_REQUEST
            }
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::UnknownProject => StatusCode::NOT_FOUND,
            Self::RateLimited { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::Overloaded
            | Self::LogFull { .. }
            | Self::LogUnavailable
            | Self::DirectoryUnavailable
            | Self::Abandoned => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// Seconds after which a retry makes sense, where one does.
    pub(crate) fn retry_after_s(&self) -> Option<u32> {
        match self {
            Self::RateLimited { retry_after_s } => Some(*retry_after_s),
            // Rounded up: never early.
            Self::LogFull { retry_after } => {
                Some(retry_after.as_millis().div_ceil(1_000).clamp(1, 60) as u32)
            }
            Self::Overloaded | Self::LogUnavailable | Self::DirectoryUnavailable => Some(1),
            _ => None,
        }
    }

    /// What the client reads: `None` where the answer has no body.
    pub(crate) fn message(&self) -> Option<Cow<'static, str>> {
        Some(Cow::Borrowed(match self {
            Self::Accepted | Self::Preflight => return None,
            Self::Invalid(refusal) => return Some(Cow::Owned(refusal.to_string())),
            Self::Method => "Method not allowed, use POST",
            Self::ContentType => "Content-Type must be application/json",
            Self::ContentEncoding => "Content-Encoding must be gzip, zstd or identity",
            Self::TooLarge => "The body is larger than 2 MiB",
            Self::Slow => "The body did not arrive in time",
            Self::BrokenOff => "The body ended early",
            Self::Inflate => "The body is not what its Content-Encoding says",
            Self::Unauthorized => "Missing, malformed or unknown token",
            Self::ProjectMissing => "The header X-Project is required",
            Self::UnknownProject => "Project not found",
            Self::RateLimited { .. } => "Too many requests for this project",
            Self::Overloaded
            | Self::LogFull { .. }
            | Self::LogUnavailable
            | Self::DirectoryUnavailable
            | Self::Abandoned => "Temporarily unavailable",
        }))
    }
}

impl From<wire::Refusal> for Outcome {
    fn from(refusal: wire::Refusal) -> Self {
        Self::Invalid(refusal)
    }
}

impl From<SubmitError> for Outcome {
    fn from(error: SubmitError) -> Self {
        match error {
            SubmitError::Busy { retry_after } => Self::LogFull { retry_after },
            SubmitError::TooLarge => Self::TooLarge,
            SubmitError::Unavailable => Self::LogUnavailable,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retry_is_never_asked_for_early() {
        let after = |ms| {
            let retry_after = Duration::from_millis(ms);
            Outcome::LogFull { retry_after }.retry_after_s()
        };
        assert_eq!(after(0), Some(1));
        assert_eq!(after(1_001), Some(2));
        assert_eq!(after(3_600_000), Some(60));
    }
}
