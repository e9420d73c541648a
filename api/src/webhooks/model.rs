use chrono::{DateTime, Utc};
use reqwest::Url;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::Event;
use super::schedule::MAX_ATTEMPTS;
use crate::error::{ApiError, ApiResult};
use crate::patch;
use crate::text;

/// An address that is told of events.
#[derive(Debug, Serialize, ToSchema, sqlx::FromRow)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Webhook {
    pub(super) id: i64,
    project_id: i64,
    pub(super) url: String,
    pub(super) events: Vec<String>,
    pub(super) is_active: bool,
    /// Shown in the answer to its creation alone.
    #[sqlx(default)]
    pub(super) secret: Option<String>,
    has_secret: bool,
    created_at: DateTime<Utc>,
}

/// One event for one webhook, and what came of it.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Delivery {
    id: i64,
    webhook_id: i64,
    event: String,
    /// As sent.
    #[schema(value_type = Object)]
    payload: Value,
    /// `pending`, `success` or `failed`.
    status: String,
    /// Of the last attempt; null if there was no answer.
    http_status: Option<i32>,
    /// Of the last attempt; the first 4096 characters.
    response_body: Option<String>,
    error_message: Option<String>,
    /// Attempts started.
    attempt: i32,
    max_attempts: i32,
    /// Null unless a further attempt is planned.
    next_retry_at: Option<DateTime<Utc>>,
    created_at: DateTime<Utc>,
    completed_at: Option<DateTime<Utc>>,
}

#[derive(sqlx::FromRow)]
pub(super) struct DeliveryRow {
    id: i64,
    webhook_id: i64,
    event: String,
    body: String,
    status: String,
    http_status: Option<i32>,
    response_body: Option<String>,
    error_message: Option<String>,
    attempt: i32,
    next_retry_at: Option<DateTime<Utc>>,
    created_at: DateTime<Utc>,
    completed_at: Option<DateTime<Utc>>,
}

impl From<DeliveryRow> for Delivery {
    fn from(row: DeliveryRow) -> Self {
        Self {
            payload: serde_json::from_str(&row.body).unwrap_or_default(),
            max_attempts: MAX_ATTEMPTS,
            next_retry_at: row.next_retry_at,
            id: row.id,
            webhook_id: row.webhook_id,
            event: row.event,
            status: row.status,
            http_status: row.http_status,
            response_body: row.response_body,
            error_message: row.error_message,
            attempt: row.attempt,
            created_at: row.created_at,
            completed_at: row.completed_at,
        }
    }
}

#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct CreateWebhook {
    /// Absolute, `http` or `https`, without credentials.
    url: String,
    /// Names of events; none: it is never told of anything.
    events: Vec<String>,
    /// Without one, requests are not signed.
    secret: Option<String>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[allow(clippy::option_option)] // absent, null, value
pub(crate) struct UpdateWebhook {
    #[serde(default, deserialize_with = "patch::value")]
    #[schema(nullable = false)]
    is_active: Option<bool>,
    #[serde(default, deserialize_with = "patch::value")]
    #[schema(nullable = false)]
    url: Option<String>,
    #[serde(default, deserialize_with = "patch::value")]
    #[schema(nullable = false)]
    events: Option<Vec<String>>,
    /// Those before stay valid for 24 hours; null removes all of them.
    #[serde(default, deserialize_with = "patch::nullable")]
    #[schema(value_type = Option<String>)]
    secret: Option<Option<String>>,
}

/// A webhook that passed validation.
pub(super) struct NewWebhook {
    pub(super) url: String,
    pub(super) events: Vec<String>,
    pub(super) secret: Option<String>,
}

/// What is to become of a webhook; absent: as it is.
#[derive(Default, PartialEq)]
#[allow(clippy::option_option)] // absent, removed, value
pub(super) struct WebhookChange {
    pub(super) is_active: Option<bool>,
    pub(super) url: Option<String>,
    pub(super) events: Option<Vec<String>>,
    pub(super) secret: Option<Option<String>>,
}

/// A webhook as far as it can be changed.
#[derive(sqlx::FromRow)]
pub(super) struct StoredWebhook {
    url: String,
    events: Vec<String>,
    is_active: bool,
    pub(super) secret: Option<String>,
}

impl WebhookChange {
    /// What is not so already.
    pub(super) fn unlike(self, stored: &StoredWebhook) -> Self {
        Self {
            is_active: self.is_active.filter(|new| *new != stored.is_active),
            url: self.url.filter(|new| *new != stored.url),
            events: self.events.filter(|new| *new != stored.events),
            secret: self.secret.filter(|new| *new != stored.secret),
        }
    }
}

impl CreateWebhook {
    pub(super) fn check(self) -> ApiResult<NewWebhook> {
        Ok(NewWebhook {
            url: webhook_url(&self.url)?,
            events: event_names(self.events)?,
            secret: webhook_secret(self.secret)?,
        })
    }
}

impl UpdateWebhook {
    pub(super) fn check(self) -> ApiResult<WebhookChange> {
        Ok(WebhookChange {
            is_active: self.is_active,
            url: self.url.as_deref().map(webhook_url).transpose()?,
            events: self.events.map(event_names).transpose()?,
            secret: self.secret.map(webhook_secret).transpose()?,
        })
    }
}

/// As given, once it is known to be a URL that can be sent to.
fn webhook_url(text: &str) -> ApiResult<String> {
    let given = text::required("url", text, text::URL_CHARS)?;
    let refused = |why: &str| ApiError::bad_request(format!("url {why}"));
    let url = Url::parse(&given).map_err(|_| refused("must be absolute"))?;
    // The parser forgives missing slashes.
    let given_scheme = given.split_once("://").map(|(scheme, _)| scheme);
    let has_slashes = given_scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case(url.scheme()));
    if !has_slashes || !matches!(url.scheme(), "http" | "https") {
        return Err(refused("must begin with http:// or https://"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(refused("must not hold a user or password"));
    }
    Ok(given)
}

/// Known names, each once.
fn event_names(given: Vec<String>) -> ApiResult<Vec<String>> {
    let mut names = Vec::new();
    for name in given {
        if Event::parse(&name).is_none() {
            return Err(ApiError::bad_request(format!(
                "events: `{name}` is not an event"
            )));
        }
        if !names.contains(&name) {
            names.push(name);
        }
    }
    Ok(names)
}

fn webhook_secret(given: Option<String>) -> ApiResult<Option<String>> {
    let secret = given.filter(|secret| !secret.is_empty());
    secret
        .map(|secret| text::capped("secret", secret, text::URL_CHARS))
        .transpose()
}
