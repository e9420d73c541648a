//! What a channel says about a flag differently. A part that was never written
//! follows the flag (flags.md §5).

use axum::Json;
use axum::extract::State;
use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use super::input::{UpdateEnvSetting, typed_as_variation};
use super::model::EnvSetting;
use super::reads::StoredSetting;
use super::store::{self, Locked};
use crate::ApiState;
use crate::audit::Action;
use crate::caps;
use crate::change::Change;
use crate::error::ApiResult;
use crate::extract::{JsonBody, Path};
use crate::scope::Editor;
use crate::text;
use crate::version::{IfMatch, Version};

/// Switches a flag in a channel, or gives it another default there. The channel
/// need not be configured.
#[utoipa::path(patch, path = "/flags/{id}/env/{channelName}", tag = "flags",
    security(("bearer" = ["editor"])),
    params(("id" = i64, Path), ("channelName" = String, Path),
           ("If-Match" = Option<String>, Header, description = "Versions, any of which it must have")),
    request_body = UpdateEnvSetting,
    responses((status = 200, body = EnvSetting, headers(("etag" = String))),
              (status = 412, description = "The flag was changed since that version")))]
pub(super) async fn update(
    State(state): State<ApiState>,
    Editor(scope): Editor,
    Path((flag_id, channel)): Path<(i64, String)>,
    if_match: IfMatch,
    JsonBody(body): JsonBody<UpdateEnvSetting>,
) -> ApiResult<(Version, Json<EnvSetting>)> {
    let mut change = Change::begin(&state, &scope).await?;
    let locked = store::lock(&mut change, flag_id).await?;
    let channel = text::required("channelName", &channel, text::NAME_CHARS)?;
    let default_value = body.default_value.map(|value| {
        typed_as_variation("defaultValue", locked.flag_type, &locked.variations, value)
    });
    let written = Written {
        enabled: body.enabled,
        default_value: default_value.transpose()?,
    };
    if_match.check(locked.version())?;
    let found = find(&mut change, flag_id, &channel).await?;
    let written = written.unlike(found.as_ref());
    if written.is_empty() {
        change.undo().await?;
        let inherited = || EnvSetting::inherited(&locked.flag, &channel);
        let setting = found.map(|found| found.setting.resolve(&locked.flag));
        return Ok((locked.version(), Json(setting.unwrap_or_else(inherited))));
    }
    if found.is_none() {
        let settings = &caps::FLAG_SETTINGS;
        settings
            .leave_room_in(&mut change, flag_id, "channels with settings")
            .await?;
    }
    let setting = write(&mut change, &locked, &channel, &written).await?;
    let version = Version::of(change.at());
    change.commit().await?;
    Ok((version, Json(setting)))
}

/// A channel's settings, if it has any.
#[derive(sqlx::FromRow)]
struct Found {
    #[sqlx(flatten)]
    setting: StoredSetting,
    /// Something later than the channel's switch decides: the flag's own, or a
    /// release (flags.md §5, §8). Then setting it to the same again is a change.
    is_overruled: bool,
}

async fn find(change: &mut Change, flag: i64, channel: &str) -> Result<Option<Found>, sqlx::Error> {
    sqlx::query_as(
        "select s.id, s.flag_id, s.channel_name, s.enabled, s.default_value, s.created_at,
                case when s.enabled
                     then not f.enabled and s.enabled_changed_at <= f.enabled_changed_at
                     else exists (select from release_links l
                                  where l.project_id = $1 and l.flag_id = $2
                                    and l.state = 'active' and l.link_type = 'kill_switch'
                                    and l.created_at >= s.enabled_changed_at)
                end as is_overruled
         from flag_env_settings s join flags f on f.id = s.flag_id
         where s.project_id = $1 and s.flag_id = $2 and s.channel_name = $3",
    )
    .bind(change.project())
    .bind(flag)
    .bind(channel)
    .fetch_optional(change.connection())
    .await
}

/// Writes what is different, and notes it.
async fn write(
    change: &mut Change,
    locked: &Locked,
    channel: &str,
    written: &Written,
) -> ApiResult<EnvSetting> {
    let flag_id = locked.flag.id;
    let stored = upsert(change, flag_id, channel, written).await?;
    store::touch(change, flag_id).await?;
    let setting = stored.resolve(&locked.flag);
    let details = json!({ "flagId": flag_id, "channel": channel,
        "enabled": setting.enabled, "defaultValue": setting.default_value });
    change
        .audit(Action::ENV_SETTING_UPDATED, setting.id, details)
        .await?;
    Ok(setting)
}

/// The parts that are written now.
struct Written {
    enabled: Option<bool>,
    default_value: Option<Value>,
}

impl Written {
    /// What is not so already.
    fn unlike(self, found: Option<&Found>) -> Self {
        let Some(Found {
            setting,
            is_overruled,
        }) = found
        else {
            return self;
        };
        Self {
            enabled: self
                .enabled
                .filter(|new| *is_overruled || Some(*new) != setting.enabled),
            default_value: self
                .default_value
                .filter(|new| Some(new) != setting.default_value.as_ref()),
        }
    }

    fn is_empty(&self) -> bool {
        self.enabled.is_none() && self.default_value.is_none()
    }
}

async fn upsert(
    change: &mut Change,
    flag: i64,
    channel: &str,
    written: &Written,
) -> Result<StoredSetting, sqlx::Error> {
    let enabled_at: Option<DateTime<Utc>> = written.enabled.map(|_| change.at());
    sqlx::query_as(
        "insert into flag_env_settings as s
            (project_id, flag_id, channel_name, enabled, enabled_changed_at, default_value, created_at)
         values ($1, $2, $3, $4, $5, $6, $7)
         on conflict on constraint flag_env_settings_channel_key do update set
            enabled = coalesce($4, s.enabled),
            enabled_changed_at = coalesce($5, s.enabled_changed_at),
            default_value = coalesce($6, s.default_value)
         returning id, flag_id, channel_name, enabled, default_value, created_at",
    )
    .bind(change.project())
    .bind(flag)
    .bind(channel)
    .bind(written.enabled)
    .bind(enabled_at)
    .bind(&written.default_value)
    .bind(change.at())
    .fetch_one(change.connection())
    .await
}
