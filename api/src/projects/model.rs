use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

/// What everything else belongs to.
#[derive(Debug, Serialize, ToSchema, sqlx::FromRow)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Project {
    pub(crate) id: i64,
    /// Stable handle, used by devices.
    pub(crate) uuid: Uuid,
    pub(crate) name: String,
    pub(crate) slug: String,
    pub(crate) created_at: DateTime<Utc>,
}

#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct CreateProject {
    pub(super) name: String,
    /// Letters, digits and inner hyphens; at most 63.
    pub(super) slug: String,
}
