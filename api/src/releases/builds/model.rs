use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::error::{ApiError, ApiResult};
use crate::releases::form::Form;
use crate::releases::links::LinkedFlag;
use crate::releases::publishing;
use crate::text;

/// The longest group id.
const GROUP_CHARS: usize = 64;

/// Something that can be published.
#[derive(Debug, Serialize, ToSchema, sqlx::FromRow)]
#[serde(rename_all = "camelCase")]
#[allow(clippy::struct_field_names)] // names of the wire
pub(crate) struct Build {
    id: i64,
    build_uuid: Uuid,
    runtime_version: String,
    /// `ios` or `android`.
    platform: String,
    git_commit_hash: Option<String>,
    git_branch: Option<String>,
    ci_run_url: Option<String>,
    message: String,
    created_at: DateTime<Utc>,
    /// How many files.
    asset_count: i64,
    /// Whether some existing update came from it.
    is_published: bool,
}

/// The body of an upload, for its description.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
#[allow(dead_code)]
pub(crate) struct BuildForm {
    runtime_version: String,
    /// `ios` or `android`.
    platform: String,
    /// Empty if absent.
    message: Option<String>,
    /// A JSON object; `{}` if absent.
    expo_config: Option<String>,
    git_commit_hash: Option<String>,
    git_branch: Option<String>,
    ci_run_url: Option<String>,
    runtime_fingerprint: Option<String>,
    /// At least one file, under this or any other name; each part has a filename.
    #[schema(value_type = Vec<String>, format = Binary)]
    assets: Vec<Vec<u8>>,
}

/// The parts of an upload that are texts; all others are files.
pub(super) const TEXT_PARTS: [&str; 8] = [
    "runtimeVersion",
    "platform",
    "message",
    "expoConfig",
    "gitCommitHash",
    "gitBranch",
    "ciRunUrl",
    "runtimeFingerprint",
];

/// The texts of an upload that passed validation.
#[derive(Debug)]
pub(super) struct NewBuild {
    pub(super) runtime_version: String,
    pub(super) platform: String,
    pub(super) message: String,
    pub(super) expo_config: Value,
    pub(super) git_commit_hash: Option<String>,
    pub(super) git_branch: Option<String>,
    pub(super) ci_run_url: Option<String>,
    pub(super) runtime_fingerprint: Option<String>,
}

impl NewBuild {
    pub(super) fn of(form: &Form) -> ApiResult<Self> {
        let optional = |name, max| text::optional(name, form.texts.get(name).cloned(), max);
        let message = form.text("message").to_owned();
        Ok(Self {
            runtime_version: publishing::runtime_version(form.text("runtimeVersion"))?,
            platform: publishing::platform(form.text("platform").trim())?,
            message: text::capped("message", message, text::MESSAGE_CHARS)?,
            expo_config: expo_config(form.text("expoConfig"))?,
            git_commit_hash: optional("gitCommitHash", text::NAME_CHARS)?,
            git_branch: optional("gitBranch", text::URL_CHARS)?,
            ci_run_url: optional("ciRunUrl", text::URL_CHARS)?,
            runtime_fingerprint: optional("runtimeFingerprint", text::NAME_CHARS)?,
        })
    }
}

fn expo_config(text: &str) -> ApiResult<Value> {
    if text.trim().is_empty() {
        return Ok(Value::Object(Map::new()));
    }
    let parsed = serde_json::from_str(text);
    let parsed = parsed.map_err(|_| ApiError::bad_request("expoConfig must be a JSON object"))?;
    publishing::expo_config(parsed)
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct UploadedBuild {
    pub(super) id: i64,
    pub(super) build_uuid: Uuid,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PublishBuild {
    /// Need not be configured: then it means the branch of its own name.
    channel: String,
    /// From 0 to 100; 100 if absent.
    #[schema(minimum = 0, maximum = 100)]
    rollout_percentage: Option<i64>,
    /// False if absent.
    is_critical: Option<bool>,
    /// Empty if absent.
    release_message: Option<String>,
    /// What several platforms and channels of one release share: 1 to 64
    /// characters; a new UUID if absent.
    #[schema(min_length = 1, max_length = 64)]
    group_id: Option<String>,
    /// Flags whose state goes with the release.
    pub(super) linked_flags: Option<Vec<LinkedFlag>>,
}

impl PublishBuild {
    pub(super) fn check(&self) -> ApiResult<(String, publishing::Terms)> {
        let terms = publishing::Terms {
            rollout_percentage: publishing::rollout_percentage(self.rollout_percentage)?,
            is_critical: self.is_critical.unwrap_or(false),
            release_message: publishing::release_message(self.release_message.clone())?,
            group_id: self.group()?,
        };
        Ok((publishing::channel(&self.channel)?, terms))
    }

    fn group(&self) -> ApiResult<String> {
        match &self.group_id {
            None => Ok(publishing::new_group()),
            Some(group) if (1..=GROUP_CHARS).contains(&group.chars().count()) => Ok(group.clone()),
            Some(_) => Err(ApiError::bad_request(
                "groupId must have 1 to 64 characters",
            )),
        }
    }
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PublishedBuild {
    pub(super) update_id: i64,
    pub(super) update_uuid: Uuid,
    pub(super) group_id: String,
}
