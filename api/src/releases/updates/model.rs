use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use sqlx::types::Json;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::store::Stored;
use crate::error::{ApiError, ApiResult};
use crate::insights::downloads::TotalsByUpdate;
use crate::page::Whole;
use crate::patch;
use crate::releases::form;
use crate::releases::links::LinkedFlag;
use crate::releases::publishing::{self, Content, Kind, Terms};
use crate::text;

const DEFAULT_CHANNEL: &str = "production";
const MAX_ASSETS: usize = 5000;

/// A release for one platform on one channel, or a way back.
#[derive(Debug, Serialize, ToSchema, sqlx::FromRow)]
#[serde(rename_all = "camelCase")]
#[allow(clippy::struct_field_names)] // names of the wire
pub(crate) struct Update {
    id: i64,
    /// What devices call it.
    update_uuid: Uuid,
    runtime_version: String,
    runtime_fingerprint: Option<String>,
    /// `ios` or `android`.
    platform: String,
    /// The channel it was published to.
    channel: String,
    /// The channel's branch at that time.
    branch_name: Option<String>,
    is_rollback: bool,
    /// Set on rollbacks to an update; null on those to the bundle in the app.
    rollback_to_update_id: Option<i64>,
    /// Share of devices that may get it, in percent.
    rollout_percentage: i32,
    is_critical: bool,
    /// Devices skip it if not.
    is_enabled: bool,
    release_message: String,
    /// As text: a page of large ones takes many times their size as values.
    #[schema(value_type = Object)]
    expo_config: Json<Box<RawValue>>,
    /// Shared by the platforms and channels of one release.
    group_id: Option<String>,
    /// How many files.
    asset_count: i64,
    /// Size of all files, in bytes.
    total_size: i64,
    /// How often its manifest was served.
    total_downloads: i64,
    /// To how many devices.
    unique_devices: i64,
    git_commit_hash: Option<String>,
    git_branch: Option<String>,
    ci_run_url: Option<String>,
    /// Message of the build it came from.
    build_message: Option<String>,
    created_at: DateTime<Utc>,
}

impl Update {
    /// Says how often it was downloaded.
    pub(super) fn count(&mut self, totals: &TotalsByUpdate) {
        let totals = totals.get(&self.update_uuid).copied().unwrap_or_default();
        self.total_downloads = totals.downloads as i64;
        self.unique_devices = totals.devices as i64;
    }
}

/// Filters combine with AND.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct UpdateFilter {
    /// Exactly this platform.
    pub(super) platform: Option<String>,
    /// Published to exactly this channel.
    pub(super) channel: Option<String>,
    /// On exactly this branch.
    pub(super) branch: Option<String>,
    /// For exactly this runtime version or fingerprint.
    pub(super) runtime_version: Option<String>,
    /// In the message, commit, git branch, runtime version or update id, in any case.
    pub(super) search: Option<String>,
    /// How many at most; no more than 500.
    #[param(value_type = Option<i64>, format = "whole-number", minimum = 1, default = 100)]
    pub(super) limit: Option<Whole>,
    /// How many to skip.
    #[param(value_type = Option<i64>, format = "whole-number", minimum = 0, default = 0)]
    pub(super) offset: Option<Whole>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CreateUpdate {
    runtime_version: String,
    /// `ios` or `android`.
    platform: String,
    /// `production` if absent; need not be configured.
    channel: Option<String>,
    /// `{}` if absent.
    #[schema(value_type = Option<Object>)]
    expo_config: Option<Value>,
    /// True: devices go back to the bundle inside the app; needs `assets` to be empty.
    is_rollback: Option<bool>,
    /// Exactly one starts the app. Required unless this is a rollback.
    pub(super) assets: Option<Vec<CreateAsset>>,
    /// From 0 to 100; 100 if absent.
    #[schema(minimum = 0, maximum = 100)]
    rollout_percentage: Option<i64>,
    /// False if absent.
    is_critical: Option<bool>,
    /// Empty if absent.
    release_message: Option<String>,
    /// Flags whose state goes with the release.
    pub(super) linked_flags: Option<Vec<LinkedFlag>>,
}

/// A file that `POST /assets/upload` took. Hashes and size are those that were
/// computed then, whatever is said here.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[allow(dead_code)] // required by the contract, and not believed
pub(crate) struct CreateAsset {
    pub(super) s3_key: String,
    hash_sha256: String,
    hash_md5: String,
    pub(super) file_extension: String,
    pub(super) content_type: String,
    pub(super) is_launch_asset: bool,
    file_size: Option<i64>,
}

/// An update that passed validation.
#[derive(Debug)]
pub(super) struct NewUpdate {
    pub(super) channel: String,
    pub(super) content: Content,
    pub(super) terms: Terms,
    pub(super) kind: Kind,
}

impl CreateUpdate {
    pub(super) fn check(&self) -> ApiResult<NewUpdate> {
        let is_rollback = self.is_rollback.unwrap_or(false);
        self.check_assets(is_rollback)?;
        let expo_config = self.expo_config.clone().unwrap_or_else(|| json!({}));
        let content = Content {
            build_id: None,
            runtime_version: publishing::runtime_version(&self.runtime_version)?,
            runtime_fingerprint: None,
            platform: publishing::platform(&self.platform)?,
            expo_config: publishing::expo_config(expo_config)?,
        };
        let terms = Terms {
            rollout_percentage: publishing::rollout_percentage(self.rollout_percentage)?,
            is_critical: self.is_critical.unwrap_or(false),
            release_message: publishing::release_message(self.release_message.clone())?,
            group_id: publishing::new_group(),
        };
        Ok(NewUpdate {
            channel: publishing::channel(self.channel.as_deref().unwrap_or(DEFAULT_CHANNEL))?,
            content,
            terms,
            kind: if is_rollback {
                Kind::Rollback { to: None }
            } else {
                Kind::Normal
            },
        })
    }

    fn check_assets(&self, is_rollback: bool) -> ApiResult<()> {
        let assets = self.assets.as_deref().unwrap_or_default();
        if is_rollback {
            return match assets {
                [] => Ok(()),
                _ => Err(ApiError::bad_request("assets must be empty for a rollback")),
            };
        }
        if assets.len() > MAX_ASSETS {
            let message = format!("assets must have at most {MAX_ASSETS} entries");
            return Err(ApiError::bad_request(message));
        }
        if assets.iter().filter(|asset| asset.is_launch_asset).count() != 1 {
            return Err(ApiError::bad_request(
                "assets must have exactly one launch asset",
            ));
        }
        assets.iter().try_for_each(CreateAsset::check)
    }
}

impl CreateAsset {
    fn check(&self) -> ApiResult<()> {
        let extension = &self.file_extension;
        let is_extension = extension.is_empty() || extension.starts_with('.');
        if !is_extension || extension.chars().any(|c| c == '/' || c.is_control()) {
            let message = "assets.fileExtension must be empty or start with a dot";
            return Err(ApiError::bad_request(message));
        }
        text::capped(
            "assets.fileExtension",
            extension.clone(),
            form::FILE_NAME_CHARS,
        )?;
        form::checked_type("assets.contentType", &self.content_type).map(drop)
    }
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CreatedUpdate {
    pub(super) id: i64,
    pub(super) update_uuid: Uuid,
    /// Says if no build of the project is for this platform and runtime version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) warning: Option<String>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PatchUpdate {
    /// From 0 to 100.
    #[serde(default, deserialize_with = "patch::value")]
    #[schema(nullable = false, minimum = 0, maximum = 100)]
    rollout_percentage: Option<i64>,
    /// Devices skip the update if not.
    #[serde(default, deserialize_with = "patch::value")]
    #[schema(nullable = false)]
    is_enabled: Option<bool>,
    #[serde(default, deserialize_with = "patch::value")]
    #[schema(nullable = false)]
    is_critical: Option<bool>,
    #[serde(default, deserialize_with = "patch::value")]
    #[schema(nullable = false)]
    release_message: Option<String>,
}

/// What is to become of an update; absent: as it is.
#[derive(Debug, Default, PartialEq)]
pub(super) struct UpdateChange {
    pub(super) rollout_percentage: Option<i32>,
    pub(super) is_enabled: Option<bool>,
    pub(super) is_critical: Option<bool>,
    pub(super) release_message: Option<String>,
}

impl PatchUpdate {
    /// What differs from what is stored.
    pub(super) fn difference(self, stored: &Stored) -> ApiResult<UpdateChange> {
        let percentage = self.rollout_percentage;
        let percentage = percentage
            .map(|p| text::percentage("rolloutPercentage", p))
            .transpose()?;
        let message = self.release_message.map(Some);
        let message = message.map(publishing::release_message).transpose()?;
        Ok(UpdateChange {
            rollout_percentage: percentage.filter(|p| *p != stored.rollout_percentage),
            is_enabled: self.is_enabled.filter(|e| *e != stored.is_enabled),
            is_critical: self.is_critical.filter(|c| *c != stored.is_critical),
            release_message: message.filter(|m| *m != stored.release_message),
        })
    }
}

impl UpdateChange {
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Changed fields in camelCase, for the audit log.
    pub(super) fn details(&self) -> Value {
        let fields = [
            (
                "rolloutPercentage",
                self.rollout_percentage.map(|v| json!(v)),
            ),
            ("isEnabled", self.is_enabled.map(|v| json!(v))),
            ("isCritical", self.is_critical.map(|v| json!(v))),
            (
                "releaseMessage",
                self.release_message.as_ref().map(|v| json!(v)),
            ),
        ];
        let changed = fields.into_iter();
        let changed = changed.filter_map(|(key, value)| Some((key.to_owned(), value?)));
        Value::Object(changed.collect::<Map<_, _>>())
    }

    /// All fields in snake_case, untouched ones null, for webhooks.
    pub(super) fn event_data(&self, id: i64) -> Value {
        json!({
            "update_id": id,
            "changes": {
                "rollout_percentage": self.rollout_percentage,
                "is_enabled": self.is_enabled,
                "is_critical": self.is_critical,
                "release_message": self.release_message,
            },
        })
    }
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RepublishUpdate {
    /// Where to; the update's own channel if absent or empty.
    pub(super) channels: Option<Vec<String>>,
    /// The update's own if absent.
    pub(super) release_message: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Republished {
    /// One for each channel, in the order of the request.
    pub(super) updates: Vec<RepublishedUpdate>,
    pub(super) group_id: String,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RepublishedUpdate {
    pub(super) id: i64,
    pub(super) update_uuid: Uuid,
    pub(super) channel: String,
}
