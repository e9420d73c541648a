#![allow(clippy::struct_field_names)] // they are the names on the wire

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::insights::evaluations::store::{CountedFlag, Totals};

/// A flag without what belongs to it.
#[derive(Clone, Debug, Serialize, ToSchema, sqlx::FromRow)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Flag {
    pub(super) id: i64,
    project_id: i64,
    pub(super) name: String,
    /// Unique in the project; never changes.
    pub(super) key: String,
    /// `boolean`, `string`, `number` or `json`; never changes.
    pub(super) flag_type: String,
    /// For channels that say nothing else.
    pub(super) default_value: Value,
    /// For channels that say nothing else; off is off everywhere, but where a
    /// channel was switched on later.
    pub(super) enabled: bool,
    pub(super) description: Option<String>,
    /// Account or key that made it.
    created_by_name: Option<String>,
    pub(super) created_at: DateTime<Utc>,
    pub(super) updated_at: DateTime<Utc>,
}

/// What a channel says differently.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct EnvSetting {
    /// 0 if nothing is stored.
    pub(super) id: i64,
    pub(super) flag_id: i64,
    pub(super) channel_name: String,
    pub(super) enabled: bool,
    pub(super) default_value: Value,
    pub(super) created_at: DateTime<Utc>,
    /// Nothing is stored: the flag's own state shows.
    pub(super) inherited: bool,
}

impl EnvSetting {
    /// Of a channel that says nothing of its own.
    pub(super) fn inherited(flag: &Flag, channel: &str) -> Self {
        Self {
            id: 0,
            flag_id: flag.id,
            channel_name: channel.to_owned(),
            enabled: flag.enabled,
            default_value: flag.default_value.clone(),
            created_at: flag.created_at,
            inherited: true,
        }
    }
}

/// A targeting rule.
#[derive(Clone, Debug, Serialize, ToSchema, sqlx::FromRow)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Rule {
    pub(super) id: i64,
    pub(super) flag_id: i64,
    /// Lower runs first.
    pub(super) priority: i32,
    pub(super) rule_type: String,
    /// Null only for `percentage_rollout`.
    pub(super) variant_value: Option<Value>,
    /// In canonical form.
    #[schema(value_type = Object)]
    pub(super) rule_config: Value,
    /// Null: every channel.
    pub(super) channel_name: Option<String>,
    created_at: DateTime<Utc>,
}

/// One of the values a flag can have.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema, sqlx::FromRow)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Variation {
    pub(super) id: i64,
    pub(super) flag_id: i64,
    pub(super) value: Value,
    pub(super) name: Option<String>,
    pub(super) description: Option<String>,
    sort_order: i32,
    created_at: DateTime<Utc>,
}

/// A flag with what belongs to it.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct FlagDetail {
    #[serde(flatten)]
    pub(super) flag: Flag,
    /// By channel; also the channels that have none of their own.
    pub(super) env_settings: Vec<EnvSetting>,
    /// Those for every channel first, then by channel, priority and id.
    pub(super) rules: Vec<Rule>,
    /// By sort order.
    pub(super) variations: Vec<Variation>,
    /// Running and paused rollouts that switch this flag; newest first.
    #[schema(value_type = Vec<Object>)]
    pub(super) active_executions: Vec<Value>,
}

/// A flag in the list.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct FlagListItem {
    #[serde(flatten)]
    pub(super) flag: Flag,
    pub(super) env_settings: Vec<EnvSetting>,
    /// By priority and id.
    pub(super) rules: Vec<Rule>,
    pub(super) variations: Vec<Variation>,
    /// Evaluations of the last 7 days.
    #[serde(rename = "evalTotal7d")]
    pub(super) eval_total_7d: i64,
    /// The same by channel; channels without any are absent.
    #[serde(rename = "evalByChannel7d")]
    pub(super) eval_by_channel_7d: BTreeMap<String, i64>,
}

impl FlagListItem {
    /// The flag, as far as counts concern it.
    pub(super) fn counted(&self) -> CountedFlag {
        CountedFlag {
            key: self.flag.key.clone(),
            created_at: self.flag.created_at,
        }
    }

    /// Fills in its counts.
    pub(super) fn count(&mut self, totals: Totals) {
        self.eval_total_7d = totals.total;
        self.eval_by_channel_7d = totals.by_channel;
    }
}
