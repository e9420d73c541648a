use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use crate::page::Whole;

/// One thing that someone did.
#[derive(Debug, Serialize, ToSchema, sqlx::FromRow)]
#[serde(rename_all = "camelCase")]
pub struct AuditEntry {
    /// Also the cursor of the list.
    pub id: i64,
    /// Such as `branch.created`.
    pub action: String,
    /// Such as `branch`.
    pub entity_type: String,
    /// Id of the thing, where it has one.
    pub entity_id: Option<i64>,
    /// What changed; keys in camelCase, by action.
    #[schema(value_type = Object)]
    pub details: Value,
    /// When.
    pub created_at: DateTime<Utc>,
    /// `user` or `api_key`; null for the system.
    pub actor_type: Option<String>,
    /// Name of the account or key at that time.
    pub actor_name: Option<String>,
}

/// Filters combine with AND.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct AuditFilter {
    /// How many at most.
    #[param(value_type = Option<i64>, format = "whole-number", minimum = 1, default = 200)]
    pub limit: Option<Whole>,
    /// Only ids strictly below this one.
    pub before: Option<i64>,
    /// Exactly this action.
    pub action: Option<String>,
    /// Exactly this kind of thing.
    pub entity_type: Option<String>,
    /// Exactly this thing.
    pub entity_id: Option<i64>,
}
