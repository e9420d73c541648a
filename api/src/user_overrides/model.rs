use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

/// A user of the app who gets a branch whatever the channel says.
#[derive(Debug, Serialize, ToSchema, sqlx::FromRow)]
#[serde(rename_all = "camelCase")]
pub(crate) struct UserOverride {
    pub(super) id: i64,
    project_id: i64,
    /// The app's own id of the user.
    user_id: String,
    branch_name: String,
    note: Option<String>,
    created_at: DateTime<Utc>,
}

impl UserOverride {
    pub(super) fn details(&self) -> Value {
        json!({ "userId": self.user_id, "branchName": self.branch_name, "note": self.note })
    }
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CreateUserOverride {
    pub(super) user_id: String,
    /// An existing branch.
    pub(super) branch_name: String,
    pub(super) note: Option<String>,
}
