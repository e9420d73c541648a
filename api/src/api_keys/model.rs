use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A key as it is shown after its creation.
#[derive(Debug, Serialize, ToSchema, sqlx::FromRow)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ApiKey {
    id: i64,
    name: String,
    /// The first 12 characters.
    key_prefix: String,
    /// False: revoked.
    is_active: bool,
    created_at: DateTime<Utc>,
    /// About a minute exact.
    last_used_at: Option<DateTime<Utc>>,
}

#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct CreateApiKey {
    pub(super) name: String,
    /// `publishable`, `viewer`, `editor` (the default) or `admin`; not above
    /// the creator's.
    pub(super) role: Option<String>,
}

/// A key as it is shown once.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CreatedApiKey {
    pub(super) id: i64,
    pub(super) name: String,
    /// The secret; it cannot be had again.
    pub(super) key: String,
    pub(super) key_prefix: String,
}
