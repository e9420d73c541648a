use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use crate::error::ApiResult;
use crate::patch;
use crate::text;

/// A name that builds are compiled with, and the branch behind it.
#[derive(Debug, Serialize, ToSchema, sqlx::FromRow)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Channel {
    pub(super) id: i64,
    project_id: i64,
    name: String,
    branch_name: String,
    rollout_branch_name: Option<String>,
    /// Share of devices sent to `rolloutBranchName`, in percent.
    rollout_percentage: i32,
    min_runtime_version: Option<String>,
    created_at: DateTime<Utc>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CreateChannel {
    pub(super) name: String,
    /// An existing branch.
    pub(super) branch_name: String,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[allow(clippy::option_option)] // absent, null, value
pub(crate) struct UpdateChannel {
    /// An existing branch.
    #[serde(default, deserialize_with = "patch::value")]
    #[schema(nullable = false)]
    branch_name: Option<String>,
    /// An existing branch; `""` or null clears it, and the percentage with it
    /// unless one is given.
    #[serde(default, deserialize_with = "patch::nullable")]
    #[schema(value_type = Option<String>)]
    rollout_branch_name: Option<Option<String>>,
    /// From 0 to 100.
    #[serde(default, deserialize_with = "patch::value")]
    #[schema(nullable = false, minimum = 0, maximum = 100)]
    rollout_percentage: Option<i64>,
    /// `""` or null clears it.
    #[serde(default, deserialize_with = "patch::nullable")]
    #[schema(value_type = Option<String>)]
    min_runtime_version: Option<Option<String>>,
}

/// What is to become of a channel; absent: as it is.
#[derive(Clone, Debug, Default, PartialEq)]
#[allow(clippy::option_option)] // absent, cleared, value
pub(crate) struct ChannelChange {
    pub(super) branch_name: Option<String>,
    pub(super) rollout_branch_name: Option<Option<String>>,
    pub(super) rollout_percentage: Option<i32>,
    pub(super) min_runtime_version: Option<Option<String>>,
}

impl UpdateChannel {
    pub(super) fn check(self) -> ApiResult<ChannelChange> {
        let name = |field, text: String| text::required(field, &text, text::NAME_CHARS);
        let branch_name = self
            .branch_name
            .map(|text| name("branchName", text))
            .transpose()?;
        let cleared = |field, text| text::optional(field, text, text::NAME_CHARS);
        let rollout_branch_name = self
            .rollout_branch_name
            .map(|text| cleared("rolloutBranchName", text))
            .transpose()?;
        let min_runtime_version = self
            .min_runtime_version
            .map(|text| cleared("minRuntimeVersion", text))
            .transpose()?;
        let percentage = self.rollout_percentage;
        let percentage = percentage
            .map(|p| text::percentage("rolloutPercentage", p))
            .transpose()?;
        let implied = (rollout_branch_name == Some(None)).then_some(0);
        Ok(ChannelChange {
            branch_name,
            rollout_branch_name,
            rollout_percentage: percentage.or(implied),
            min_runtime_version,
        })
    }
}

impl ChannelChange {
    /// What is not so already.
    pub(super) fn of(&self, channel: &Channel) -> Self {
        let Channel {
            branch_name,
            rollout_branch_name,
            rollout_percentage,
            min_runtime_version,
            ..
        } = channel;
        let to = self.clone();
        Self {
            branch_name: to.branch_name.filter(|new| new != branch_name),
            rollout_branch_name: to
                .rollout_branch_name
                .filter(|new| new != rollout_branch_name),
            rollout_percentage: to
                .rollout_percentage
                .filter(|new| new != rollout_percentage),
            min_runtime_version: to
                .min_runtime_version
                .filter(|new| new != min_runtime_version),
        }
    }

    /// Changed fields in camelCase, for the audit log.
    pub(super) fn details(&self, name: &str) -> Value {
        let mut details = Map::from_iter([("name".to_owned(), json!(name))]);
        let mut note = |key: &str, value: Option<Value>| {
            details.extend(value.map(|value| (key.to_owned(), value)));
        };
        note("branchName", self.branch_name.as_ref().map(|v| json!(v)));
        note(
            "rolloutBranchName",
            self.rollout_branch_name.as_ref().map(|v| json!(v)),
        );
        note(
            "rolloutPercentage",
            self.rollout_percentage.map(|v| json!(v)),
        );
        note(
            "minRuntimeVersion",
            self.min_runtime_version.as_ref().map(|v| json!(v)),
        );
        Value::Object(details)
    }

    /// All fields in snake_case, untouched ones null, for webhooks.
    pub(super) fn event_data(&self, name: &str) -> Value {
        json!({
            "name": name,
            "branch_name": self.branch_name,
            "rollout_branch_name": self.rollout_branch_name,
            "rollout_percentage": self.rollout_percentage,
            "min_runtime_version": self.min_runtime_version,
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}
