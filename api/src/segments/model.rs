use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::error::{ApiError, ApiResult};
use crate::flags::eval::Condition as EvalCondition;
use crate::patch;
use crate::text;

const MAX_CONDITIONS: usize = 100;

/// An audience.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Segment {
    #[serde(flatten)]
    pub(super) head: SegmentHead,
    /// By sort order. None match nobody.
    pub(super) conditions: Vec<Condition>,
}

/// A segment without its conditions.
#[derive(Clone, Debug, Serialize, ToSchema, sqlx::FromRow)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SegmentHead {
    pub(super) id: i64,
    project_id: i64,
    /// Unique in the project; never changes.
    pub(super) key: String,
    name: String,
    description: String,
    /// `all` or `any` of the conditions.
    pub(super) match_type: String,
    /// Contexts seen in the last 30 days that match; counted now and then.
    estimated_devices: i64,
    created_at: DateTime<Utc>,
    pub(super) updated_at: DateTime<Utc>,
}

/// A comparison with an attribute.
#[derive(Clone, Debug, Serialize, ToSchema, sqlx::FromRow)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Condition {
    id: i64,
    pub(super) segment_id: i64,
    pub(super) attribute: String,
    pub(super) operator: String,
    #[sqlx(rename = "condition_values")]
    pub(super) values_json: Vec<String>,
    sort_order: i32,
}

impl Condition {
    fn is(&self, new: &EvalCondition) -> bool {
        self.attribute == new.attribute
            && self.operator == new.operator.name()
            && self.values_json == new.values
    }
}

/// A segment and the flags whose rules use it.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SegmentDetail {
    #[serde(flatten)]
    pub(super) segment: Segment,
    /// Each flag once, by key.
    pub(super) referenced_by: Vec<Reference>,
}

/// A flag that uses the segment.
#[allow(clippy::struct_field_names)] // they are the names on the wire
#[derive(Debug, Serialize, ToSchema, sqlx::FromRow)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Reference {
    flag_id: i64,
    pub(super) flag_key: String,
    flag_name: String,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CreateSegment {
    name: String,
    /// ASCII letters, digits, `-` and `_`; derived from the name if absent.
    key: Option<String>,
    description: Option<String>,
    /// `all` or `any`.
    match_type: String,
    #[schema(value_type = Vec<ConditionInput>)]
    conditions: Vec<Value>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[allow(clippy::option_option)] // absent, null, value
pub(crate) struct UpdateSegment {
    #[serde(default, deserialize_with = "patch::value")]
    #[schema(nullable = false)]
    name: Option<String>,
    #[serde(default, deserialize_with = "patch::nullable")]
    #[schema(value_type = Option<String>)]
    description: Option<Option<String>>,
    /// `all` or `any`.
    #[serde(default, deserialize_with = "patch::value")]
    #[schema(nullable = false)]
    match_type: Option<String>,
    /// Replaces all conditions.
    #[serde(default, deserialize_with = "patch::value")]
    #[schema(value_type = Vec<ConditionInput>, nullable = false, required = false)]
    conditions: Option<Vec<Value>>,
}

/// A condition as it is written; read by the evaluator's own parser.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
#[allow(dead_code)] // describes what the parser takes
pub(crate) struct ConditionInput {
    attribute: String,
    /// One of the 17 operators.
    operator: String,
    /// Also accepted as `values`. Empty for `exists` and `not_exists` alone.
    values_json: Vec<String>,
}

/// A segment that passed validation.
pub(super) struct NewSegment {
    pub(super) name: String,
    pub(super) key: Option<String>,
    pub(super) description: String,
    pub(super) match_type: String,
    pub(super) conditions: Vec<EvalCondition>,
}

/// What is to become of a segment; absent: as it is.
#[derive(Default)]
pub(super) struct SegmentChange {
    pub(super) name: Option<String>,
    pub(super) description: Option<String>,
    pub(super) match_type: Option<String>,
    pub(super) conditions: Option<Vec<EvalCondition>>,
}

impl CreateSegment {
    pub(super) fn check(self) -> ApiResult<NewSegment> {
        Ok(NewSegment {
            name: text::required("name", &self.name, text::NAME_CHARS)?,
            key: text::optional("key", self.key, text::KEY_CHARS)?
                .map(segment_key)
                .transpose()?,
            description: description(self.description)?,
            match_type: match_type(self.match_type)?,
            conditions: conditions(&self.conditions)?,
        })
    }
}

impl UpdateSegment {
    pub(super) fn check(self) -> ApiResult<SegmentChange> {
        let name = self
            .name
            .map(|name| text::required("name", &name, text::NAME_CHARS));
        Ok(SegmentChange {
            name: name.transpose()?,
            description: self.description.map(description).transpose()?,
            match_type: self.match_type.map(match_type).transpose()?,
            conditions: self.conditions.as_deref().map(conditions).transpose()?,
        })
    }
}

impl SegmentChange {
    /// What is not so already.
    pub(super) fn unlike(self, segment: &Segment) -> Self {
        let SegmentHead {
            name,
            description,
            match_type,
            ..
        } = &segment.head;
        Self {
            name: self.name.filter(|new| new != name),
            description: self.description.filter(|new| new != description),
            match_type: self.match_type.filter(|new| new != match_type),
            conditions: self.conditions.filter(|new| {
                let stored = &segment.conditions;
                new.len() != stored.len() || !stored.iter().zip(new).all(|(old, new)| old.is(new))
            }),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        let Self {
            name,
            description,
            match_type,
            conditions,
        } = self;
        name.is_none() && description.is_none() && match_type.is_none() && conditions.is_none()
    }
}

fn description(given: Option<String>) -> ApiResult<String> {
    Ok(text::optional("description", given, text::NOTE_CHARS)?.unwrap_or_default())
}

fn match_type(given: String) -> ApiResult<String> {
    if !matches!(given.as_str(), "all" | "any") {
        return Err(ApiError::bad_request("matchType must be all or any"));
    }
    Ok(given)
}

fn segment_key(key: String) -> ApiResult<String> {
    if !key
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
    {
        return Err(ApiError::bad_request(
            "key may hold ASCII letters, digits, `-` and `_`",
        ));
    }
    Ok(key)
}

fn conditions(given: &[Value]) -> ApiResult<Vec<EvalCondition>> {
    if given.len() > MAX_CONDITIONS {
        return Err(ApiError::bad_request(
            "conditions must have at most 100 entries",
        ));
    }
    let bytes: usize = given.iter().map(|entry| entry.to_string().len()).sum();
    if bytes > text::JSON_BYTES {
        return Err(ApiError::bad_request(
            "conditions must have at most 256 KiB",
        ));
    }
    let parse = |(index, condition)| {
        EvalCondition::parse(condition)
            .map_err(|invalid| ApiError::bad_request(format!("conditions[{index}]: {invalid}")))
    };
    given.iter().enumerate().map(parse).collect()
}

/// The key that follows from a name.
pub(super) fn key_of_name(name: &str) -> String {
    let kept = name.to_lowercase();
    let kept = kept
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || *c == ' ' || *c == '-');
    let hyphenated: String = kept.map(|c| if c == ' ' { '-' } else { c }).collect();
    let words: Vec<_> = hyphenated
        .split('-')
        .filter(|word| !word.is_empty())
        .collect();
    let mut key = words.join("-");
    key.truncate(text::KEY_CHARS - "-1000".len());
    let key = key.trim_end_matches('-').to_owned();
    if key.is_empty() {
        "segment".to_owned()
    } else {
        key
    }
}

#[cfg(test)]
mod tests {
    use super::key_of_name;

    #[test]
    fn keys_follow_from_names() {
        assert_eq!(key_of_name("  Beta -- Testers (EU)! "), "beta-testers-eu");
        assert_eq!(key_of_name("東京"), "segment");
        let cut_at_a_hyphen = format!("{} tail", "a".repeat(122));
        assert_eq!(key_of_name(&cut_at_a_hyphen), "a".repeat(122));
    }
}
