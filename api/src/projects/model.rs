use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::error::{ApiError, ApiResult};
use crate::insights::channels::DEFAULT;
use crate::patch;
use crate::text;

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
    /// What views show and count the channel `default` as; absent: as itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub(super) treat_default_channel_as: Option<String>,
}

impl Project {
    /// What can be changed of it, for the audit log.
    pub(super) fn settings(&self) -> Value {
        json!({ "slug": self.slug, "treatDefaultChannelAs": self.treat_default_channel_as })
    }
}

#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct CreateProject {
    pub(super) name: String,
    /// Letters, digits and inner hyphens; at most 63.
    pub(super) slug: String,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[allow(clippy::option_option)] // absent, null, value
pub(crate) struct UpdateProject {
    /// A channel: views count what is reported under `default`, where apps report that set no
    /// channel, as reported under this one. `""` or null: as it is.
    #[serde(default, deserialize_with = "patch::nullable")]
    #[schema(value_type = Option<String>)]
    treat_default_channel_as: Option<Option<String>>,
}

impl UpdateProject {
    /// What is to become of the setting; absent: as it is.
    #[allow(clippy::option_option)] // absent, cleared, value
    pub(super) fn default_channel(self) -> ApiResult<Option<Option<String>>> {
        let given = self.treat_default_channel_as;
        let to = given.map(|name| text::optional("treatDefaultChannelAs", name, text::NAME_CHARS));
        let to = to.transpose()?;
        if to.as_ref().and_then(Option::as_deref) == Some(DEFAULT) {
            let message = "treatDefaultChannelAs must name another channel than default";
            return Err(ApiError::bad_request(message));
        }
        Ok(to)
    }
}
