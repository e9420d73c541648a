//! What device-facing flag routes take and give.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::eval::Device;
use super::eval::definitions::Variant;
use crate::error::{ApiError, ApiResult};

/// Most attributes of one context.
const MAX_ATTRIBUTES: usize = 64;
/// Longest value of an attribute, in bytes of JSON.
const MAX_ATTRIBUTE_BYTES: usize = 2048;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
pub(crate) struct DefinitionsQuery {
    /// Channel whose flags are wanted.
    pub(super) channel: Option<String>,
    /// UUID of the update that the device runs.
    update_id: Option<String>,
    /// Counts towards the rate of this device.
    pub(super) device_id: Option<String>,
    /// `segments`: rewrite segment rules as attribute rules.
    expand: Option<String>,
}

impl DefinitionsQuery {
    pub(super) fn variant(&self) -> Variant {
        let update = self.update_id.as_deref();
        Variant {
            update: update.and_then(|id| Uuid::try_parse(id).ok()),
            expand_segments: self.expand.as_deref() == Some("segments"),
        }
    }
}

/// What a device says of itself. `updateId` may also be the attribute `update_id`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct BulkRequest {
    project_slug: String,
    device_id: String,
    channel: Option<String>,
    /// Empty counts as absent; then the device is targeted.
    targeting_key: Option<String>,
    platform: Option<String>,
    runtime_version: Option<String>,
    update_id: Option<String>,
    /// At most 64, of at most 2 KiB each.
    attributes: Option<Map<String, Value>>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
pub(crate) struct BulkQuery {
    /// Also answer flags that are off, as null.
    #[serde(default)]
    pub(super) include_disabled: bool,
}

/// Flags by key, as the device gets them.
#[derive(Debug, Serialize, ToSchema)]
#[allow(dead_code)] // Describes what the route writes piece by piece.
pub(crate) struct Evaluated {
    flags: BTreeMap<String, EvaluatedFlag>,
}

/// A value and where it comes from.
#[derive(Debug, Serialize, ToSchema)]
#[allow(dead_code)] // As above.
pub(crate) struct EvaluatedFlag {
    value: Value,
    variant: Option<String>,
    reason: String,
}

impl BulkRequest {
    /// Slug or UUID of its project.
    pub(super) fn project(&self) -> ApiResult<&str> {
        if self.project_slug.is_empty() {
            return Err(ApiError::bad_request("projectSlug must not be empty"));
        }
        Ok(&self.project_slug)
    }

    pub(super) fn into_device(self) -> ApiResult<Device> {
        let attributes = self.attributes.unwrap_or_default();
        check_attributes(&attributes)?;
        Ok(Device {
            device_id: required("deviceId", self.device_id)?,
            targeting_key: self.targeting_key,
            channel: given(self.channel),
            platform: given(self.platform),
            runtime_version: given(self.runtime_version),
            update_id: given(self.update_id),
            attributes,
        })
    }
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
pub(crate) struct StreamQuery {
    channel: Option<String>,
    /// Required.
    #[serde(alias = "device_id")]
    #[param(required = true)]
    device_id: Option<String>,
    #[serde(alias = "targeting_key")]
    targeting_key: Option<String>,
    #[serde(alias = "update_id")]
    update_id: Option<String>,
    #[serde(alias = "runtime_version")]
    runtime_version: Option<String>,
    platform: Option<String>,
}

impl StreamQuery {
    pub(super) fn into_device(self) -> ApiResult<Device> {
        Ok(Device {
            device_id: required("deviceId", self.device_id.unwrap_or_default())?,
            targeting_key: self.targeting_key,
            channel: self.channel,
            platform: self.platform,
            runtime_version: self.runtime_version,
            update_id: self.update_id,
            attributes: Map::new(),
        })
    }
}

/// Bounds on what evaluation looks at (flags.md §13).
pub(super) fn check_attributes(attributes: &Map<String, Value>) -> ApiResult<()> {
    if attributes.len() > MAX_ATTRIBUTES {
        return Err(ApiError::bad_request("attributes must be at most 64"));
    }
    let is_long = |value: &Value| match value {
        Value::String(text) => text.len() > MAX_ATTRIBUTE_BYTES,
        Value::Array(_) | Value::Object(_) => value.to_string().len() > MAX_ATTRIBUTE_BYTES,
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    };
    match attributes.iter().find(|(_, value)| is_long(value)) {
        Some((name, _)) => Err(ApiError::bad_request(format!(
            "attributes.{name} must be at most 2048 bytes"
        ))),
        None => Ok(()),
    }
}

fn required(name: &str, text: String) -> ApiResult<String> {
    if text.is_empty() {
        return Err(ApiError::bad_request(format!("{name} must not be empty")));
    }
    Ok(text)
}

/// An empty text counts as absent.
fn given(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.is_empty())
}
