//! Bodies of flag writes, and their checks.

use serde::Deserialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::model::Variation;
use crate::error::{ApiError, ApiResult};
use crate::flags::eval::{self, FlagType, Invalid};
use crate::patch;
use crate::text;

const MAX_VARIATIONS: usize = 100;
/// Values are stored inside of others, which no parser reads to any depth.
const MAX_DEPTH: usize = 64;

impl From<Invalid> for ApiError {
    fn from(invalid: Invalid) -> Self {
        Self::bad_request(invalid.to_string())
    }
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CreateFlag {
    name: String,
    /// ASCII letters, digits, `-`, `_` and `.`; at most 128.
    key: String,
    /// `boolean` (the default), `string`, `number` or `json`.
    flag_type: Option<String>,
    /// Of the flag's type; `false`, `""`, `0` or `{}` if absent.
    default_value: Option<Value>,
    /// True if absent.
    enabled: Option<bool>,
    description: Option<String>,
    /// If absent: true and false, or the default alone.
    variations: Option<Vec<CreateVariation>>,
}

#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct CreateVariation {
    /// Of the flag's type.
    value: Value,
    name: Option<String>,
    description: Option<String>,
}

/// A flag that passed validation.
#[derive(Debug)]
pub(super) struct NewFlag {
    pub(super) name: String,
    pub(super) key: String,
    pub(super) flag_type: FlagType,
    pub(super) default_value: Value,
    pub(super) enabled: bool,
    pub(super) description: Option<String>,
    pub(super) variations: Vec<NewVariation>,
}

#[derive(Debug, PartialEq)]
pub(super) struct NewVariation {
    pub(super) value: Value,
    pub(super) name: Option<String>,
    pub(super) description: Option<String>,
}

impl CreateFlag {
    pub(super) fn check(self) -> ApiResult<NewFlag> {
        let name = text::required("name", &self.name, text::NAME_CHARS)?;
        let key = flag_key(&self.key)?;
        let flag_type = flag_type(self.flag_type.as_deref())?;
        let default_value = match self.default_value {
            Some(value) => typed("defaultValue", flag_type, value)?,
            None => flag_type.zero(),
        };
        let variations = match self.variations {
            Some(given) => variations(flag_type, given)?,
            None => implied_variations(flag_type, &default_value),
        };
        let same = variations
            .iter()
            .find(|v| eval::equal(&v.value, &default_value));
        Ok(NewFlag {
            name,
            key,
            flag_type,
            default_value: same.map_or(default_value, |v| v.value.clone()),
            enabled: self.enabled.unwrap_or(true),
            description: text::optional("description", self.description, text::NOTE_CHARS)?,
            variations,
        })
    }
}

fn flag_key(key: &str) -> ApiResult<String> {
    let key = text::required("key", key, text::KEY_CHARS)?;
    if !key
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    {
        return Err(ApiError::bad_request(
            "key may hold ASCII letters, digits, `-`, `_` and `.`",
        ));
    }
    Ok(key)
}

fn flag_type(given: Option<&str>) -> ApiResult<FlagType> {
    let name = given.unwrap_or("boolean");
    let message = "flagType must be boolean, string, number or json";
    FlagType::parse(name).ok_or_else(|| ApiError::bad_request(message))
}

fn variations(flag_type: FlagType, given: Vec<CreateVariation>) -> ApiResult<Vec<NewVariation>> {
    if given.is_empty() || given.len() > MAX_VARIATIONS {
        return Err(ApiError::bad_request(
            "variations must have 1 to 100 entries",
        ));
    }
    let mut variations: Vec<NewVariation> = Vec::new();
    for (index, variation) in given.into_iter().enumerate() {
        let field = |name| format!("variations[{index}].{name}");
        let value = typed(&field("value"), flag_type, variation.value)?;
        if variations
            .iter()
            .any(|other| eval::equal(&other.value, &value))
        {
            return Err(ApiError::bad_request(
                "variations must have different values",
            ));
        }
        variations.push(NewVariation {
            value,
            name: text::optional(&field("name"), variation.name, text::NAME_CHARS)?,
            description: text::optional(
                &field("description"),
                variation.description,
                text::NOTE_CHARS,
            )?,
        });
    }
    Ok(variations)
}

/// True and false for a switch; for anything else the default.
fn implied_variations(flag_type: FlagType, default_value: &Value) -> Vec<NewVariation> {
    let variation = |value: Value, name: Option<&str>| NewVariation {
        value,
        name: name.map(str::to_owned),
        description: None,
    };
    if flag_type == FlagType::Boolean {
        return vec![
            variation(Value::Bool(true), Some("true")),
            variation(Value::Bool(false), Some("false")),
        ];
    }
    vec![variation(default_value.clone(), None)]
}

/// A value in the flag's canonical form.
pub(super) fn typed(field: &str, flag_type: FlagType, value: Value) -> ApiResult<Value> {
    let value = text::small_json(field, value)?;
    let refused = |invalid| ApiError::bad_request(format!("{field}: {invalid}"));
    let value = flag_type.coerce(value).map_err(refused)?;
    if depth(&value) > MAX_DEPTH {
        let message = format!("{field} must be nested at most {MAX_DEPTH} levels deep");
        return Err(ApiError::bad_request(message));
    }
    Ok(value)
}

/// How many arrays and objects are around its innermost part.
fn depth(value: &Value) -> usize {
    let inner = |of: usize| of + 1;
    match value {
        Value::Array(elements) => inner(elements.iter().map(depth).max().unwrap_or(0)),
        Value::Object(members) => inner(members.values().map(depth).max().unwrap_or(0)),
        _ => 0,
    }
}

/// As [`typed`], and as the variation of that value spells it.
pub(super) fn typed_as_variation(
    field: &str,
    flag_type: FlagType,
    variations: &[Variation],
    value: Value,
) -> ApiResult<Value> {
    let value = typed(field, flag_type, value)?;
    let same = variations
        .iter()
        .find(|variation| eval::equal(&variation.value, &value));
    Ok(same.map_or(value, |variation| variation.value.clone()))
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[allow(clippy::option_option)] // absent, null, value
pub(crate) struct UpdateFlag {
    #[serde(default, deserialize_with = "patch::value")]
    #[schema(nullable = false)]
    pub(super) name: Option<String>,
    /// Of the flag's type.
    #[serde(default, deserialize_with = "patch::value")]
    pub(super) default_value: Option<Value>,
    #[serde(default, deserialize_with = "patch::value")]
    #[schema(nullable = false)]
    pub(super) enabled: Option<bool>,
    #[serde(default, deserialize_with = "patch::nullable")]
    #[schema(value_type = Option<String>)]
    pub(super) description: Option<Option<String>>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CreateRule {
    /// `user_list`, `percentage_rollout`, `attribute`, `segment`, `ota_update` or `force`.
    pub(super) rule_type: String,
    /// Of the flag's type; may be null for `percentage_rollout` alone.
    #[serde(default)]
    pub(super) variant_value: Value,
    /// By rule type. A rollout with `bucketing: "v2"` has even buckets, for flags
    /// that the server evaluates: definitions for devices leave it out.
    #[schema(value_type = Option<Object>)]
    pub(super) rule_config: Option<Map<String, Value>>,
    /// Lower runs first; 0 if absent.
    pub(super) priority: Option<i32>,
    /// Every channel if absent.
    pub(super) channel_name: Option<String>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct UpdateRule {
    /// Of the flag's type; may be null for `percentage_rollout` alone.
    #[serde(default, deserialize_with = "patch::value")]
    pub(super) variant_value: Option<Value>,
    /// By rule type; replaces the whole configuration.
    #[serde(default, deserialize_with = "patch::value")]
    #[schema(value_type = Object, nullable = false, required = false)]
    pub(super) rule_config: Option<Map<String, Value>>,
    #[serde(default, deserialize_with = "patch::value")]
    #[schema(nullable = false)]
    pub(super) priority: Option<i32>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[allow(clippy::option_option)] // absent, null, value
pub(crate) struct UpdateVariation {
    /// Of the flag's type; takes its old value's place wherever that stands.
    #[serde(default, deserialize_with = "patch::value")]
    pub(super) value: Option<Value>,
    #[serde(default, deserialize_with = "patch::nullable")]
    #[schema(value_type = Option<String>)]
    pub(super) name: Option<Option<String>>,
    #[serde(default, deserialize_with = "patch::nullable")]
    #[schema(value_type = Option<String>)]
    pub(super) description: Option<Option<String>>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct UpdateEnvSetting {
    #[serde(default, deserialize_with = "patch::value")]
    #[schema(nullable = false)]
    pub(super) enabled: Option<bool>,
    /// Of the flag's type.
    #[serde(default, deserialize_with = "patch::value")]
    pub(super) default_value: Option<Value>,
}
