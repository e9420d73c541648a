use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::{IntoParams, ToSchema};

use crate::page::Whole;

/// All kinds there are.
pub(super) const KINDS: [&str; 5] = ["user", "device", "organization", "service", "environment"];

/// A subject of evaluations.
#[derive(Debug, Serialize, ToSchema, sqlx::FromRow)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Context {
    pub(super) id: i64,
    project_id: i64,
    targeting_key: String,
    /// One of the five kinds, or another that a device reported.
    kind: String,
    name: Option<String>,
    #[schema(value_type = Object)]
    attributes: Value,
    first_seen_at: DateTime<Utc>,
    last_seen_at: DateTime<Utc>,
    /// Approximate: all that a device evaluated in a minute counts for the last context that it had.
    evaluation_count: i64,
}

impl Context {
    pub(super) fn details(&self) -> Value {
        json!({ "kind": self.kind, "targetingKey": self.targeting_key })
    }
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ContextPage {
    pub(super) contexts: Vec<Context>,
    /// Matches, whatever the page.
    pub(super) total: i64,
}

/// What a flag last was for a context.
#[derive(Debug, Serialize, ToSchema, sqlx::FromRow)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ContextEvaluation {
    id: i64,
    context_id: i64,
    flag_id: i64,
    flag_key: String,
    flag_name: String,
    variation_value: Option<Value>,
    channel_name: Option<String>,
    evaluation_count: i64,
    last_evaluated_at: DateTime<Utc>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ContextDetail {
    pub(super) context: Context,
    /// Most recent first, at most 500.
    pub(super) evaluations: Vec<ContextEvaluation>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct ContextFilter {
    /// Exactly this kind.
    pub(super) kind: Option<String>,
    /// Part of the targeting key, the name, or an attribute's key or value; in any case.
    pub(super) search: Option<String>,
    /// How many at most; no more than 200.
    #[param(value_type = Option<i64>, format = "whole-number", minimum = 1, default = 50)]
    pub(super) limit: Option<Whole>,
    /// How many to skip.
    #[param(value_type = Option<i64>, format = "whole-number", minimum = 0, default = 0)]
    pub(super) offset: Option<Whole>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CreateContext {
    /// One of the five kinds.
    pub(super) kind: String,
    pub(super) targeting_key: String,
    pub(super) name: Option<String>,
    pub(super) attributes: Option<Map<String, Value>>,
}
