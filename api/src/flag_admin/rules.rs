//! Targeting rules of a flag (management.md §10.8).

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde_json::{Map, Value, json};

use super::input::{CreateRule, UpdateRule, typed_as_variation};
use super::model::Rule;
use super::store::{self, Locked};
use crate::ApiState;
use crate::audit::Action;
use crate::caps;
use crate::change::Change;
use crate::error::{ApiError, ApiResult};
use crate::extract::{JsonBody, Path};
use crate::flags::eval::{self, RuleConfig};
use crate::scope::Editor;
use crate::text;
use crate::version::{IfMatch, Version};

/// Conditions of a rule, or slices of a rollout.
const MAX_ENTRIES: usize = 100;
/// With the values of its slices.
const MAX_STORED_BYTES: u64 = 2 * text::JSON_BYTES as u64;
const ROLLOUT: &str = "percentage_rollout";

/// Adds a rule.
#[utoipa::path(post, path = "/flags/{id}/rules", tag = "flags", security(("bearer" = ["editor"])),
    params(("id" = i64, Path)), request_body = CreateRule,
    responses((status = 201, body = Rule)))]
pub(super) async fn create(
    State(state): State<ApiState>,
    Editor(scope): Editor,
    Path(flag_id): Path<i64>,
    JsonBody(body): JsonBody<CreateRule>,
) -> ApiResult<(StatusCode, Json<Rule>)> {
    let mut change = Change::begin(&state, &scope).await?;
    let locked = store::lock(&mut change, flag_id).await?;
    caps::FLAG_RULES
        .leave_room_in(&mut change, flag_id, "rules")
        .await?;
    let config = given_config(body.rule_config.unwrap_or_default())?;
    let checked = check(&locked, &body.rule_type, config, body.variant_value)?;
    let channel = text::optional("channelName", body.channel_name, text::NAME_CHARS)?;
    hold_segment(&mut change, &checked).await?;
    let placed = Placed {
        priority: body.priority.unwrap_or(0),
        channel: channel.as_deref(),
    };
    let rule = insert(&mut change, flag_id, &body.rule_type, &checked, &placed).await?;
    store::touch(&mut change, flag_id).await?;
    let details = json!({ "flagId": flag_id, "ruleType": rule.rule_type,
        "priority": rule.priority, "channel": rule.channel_name });
    change.audit(Action::RULE_CREATED, rule.id, details).await?;
    change.commit().await?;
    Ok((StatusCode::CREATED, Json(rule)))
}

/// Changes a rule; its type and channel stay.
#[utoipa::path(patch, path = "/flags/{id}/rules/{ruleId}", tag = "flags",
    security(("bearer" = ["editor"])),
    params(("id" = i64, Path), ("ruleId" = i64, Path),
           ("If-Match" = Option<String>, Header, description = "Versions, any of which it must have")),
    request_body = UpdateRule,
    responses((status = 200, body = Rule, headers(("etag" = String))),
              (status = 412, description = "The flag was changed since that version"),
              (status = 409, description = "A rollout that is under way owns it")))]
pub(super) async fn update(
    State(state): State<ApiState>,
    Editor(scope): Editor,
    Path((flag_id, rule_id)): Path<(i64, i64)>,
    if_match: IfMatch,
    JsonBody(body): JsonBody<UpdateRule>,
) -> ApiResult<(Version, Json<Rule>)> {
    let mut change = Change::begin(&state, &scope).await?;
    let locked = store::lock(&mut change, flag_id).await?;
    let stored = find(&mut change, flag_id, rule_id).await?;
    let stored = stored.ok_or_else(|| ApiError::not_found("rule"))?;
    let (config, value) = merge(&stored, &body)?;
    let checked = check(&locked, &stored.rule_type, config, value)?;
    if_match.check(locked.version())?;
    let priority = body.priority.unwrap_or(stored.priority);
    if checked.is_that_of(&stored) && priority == stored.priority {
        change.undo().await?;
        return Ok((locked.version(), Json(stored)));
    }
    hold_segment(&mut change, &checked).await?;
    let rule = replace(&mut change, rule_id, &checked, priority).await?;
    store::touch(&mut change, flag_id).await?;
    let details = json!({ "flagId": flag_id, "ruleId": rule_id });
    change.audit(Action::RULE_UPDATED, rule_id, details).await?;
    let version = Version::of(change.at());
    change.commit().await?;
    Ok((version, Json(rule)))
}

/// The configuration and value to check: the stored ones where none is given. A
/// new value of a legacy percentage makes its slice anew.
fn merge(stored: &Rule, body: &UpdateRule) -> ApiResult<(Value, Value)> {
    let mut config = match &body.rule_config {
        Some(config) => given_config(config.clone())?,
        None => stored.rule_config.clone(),
    };
    if let (Some(_), None, Some(stored)) = (
        &body.variant_value,
        &body.rule_config,
        config.as_object_mut(),
    ) && stored.contains_key("percentage")
    {
        stored.remove("rollout");
    }
    let value = body
        .variant_value
        .clone()
        .or_else(|| stored.variant_value.clone());
    Ok((config, value.unwrap_or_default()))
}

/// Removes a rule.
#[utoipa::path(delete, path = "/flags/{id}/rules/{ruleId}", tag = "flags",
    security(("bearer" = ["editor"])),
    params(("id" = i64, Path), ("ruleId" = i64, Path)),
    responses((status = 204), (status = 409, description = "A rollout that is under way owns it")))]
pub(super) async fn delete(
    State(state): State<ApiState>,
    Editor(scope): Editor,
    Path((flag_id, rule_id)): Path<(i64, i64)>,
) -> ApiResult<StatusCode> {
    let mut change = Change::begin(&state, &scope).await?;
    store::lock(&mut change, flag_id).await?;
    if !remove(&mut change, flag_id, rule_id).await? {
        return Err(ApiError::not_found("rule"));
    }
    store::touch(&mut change, flag_id).await?;
    let details = json!({ "flagId": flag_id, "ruleId": rule_id });
    change.audit(Action::RULE_DELETED, rule_id, details).await?;
    change.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// A rule's content in the form that is stored.
struct Checked {
    config: RuleConfig,
    canonical: Value,
    variant_value: Option<Value>,
}

impl Checked {
    fn is_that_of(&self, stored: &Rule) -> bool {
        self.canonical == stored.rule_config && self.variant_value == stored.variant_value
    }
}

fn check(locked: &Locked, rule_type: &str, config: Value, value: Value) -> ApiResult<Checked> {
    let variant_value = if rule_type == ROLLOUT && value.is_null() {
        None
    } else {
        let (flag_type, variations) = (locked.flag_type, &locked.variations);
        Some(typed_as_variation(
            "variantValue",
            flag_type,
            variations,
            value,
        )?)
    };
    let known: Vec<_> = locked.variations.iter().map(as_evaluated).collect();
    let parsed = RuleConfig::parse(
        rule_type,
        &config,
        variant_value.as_ref().unwrap_or(&Value::Null),
    )?;
    let resolved = parsed.resolve(locked.flag_type, &known)?;
    let canonical = match &resolved {
        RuleConfig::Force => config,
        other => other.canonical(),
    };
    refuse_large(canonical.to_string().len() as u64)?;
    Ok(Checked {
        canonical,
        config: resolved,
        variant_value,
    })
}

/// A configuration of a body, if it is not too large.
fn given_config(config: Map<String, Value>) -> ApiResult<Value> {
    let config = text::small_json("ruleConfig", Value::Object(config))?;
    for list in ["conditions", "rollout"] {
        let entries = config[list].as_array().map_or(0, Vec::len);
        if entries > MAX_ENTRIES {
            let message = format!("{list} must have at most {MAX_ENTRIES} entries");
            return Err(ApiError::bad_request(message));
        }
    }
    Ok(config)
}

/// Values are written out in each slice of a rollout: a short configuration may
/// be stored as a long one.
pub(super) fn refuse_large(stored_bytes: u64) -> ApiResult<()> {
    if stored_bytes > MAX_STORED_BYTES {
        return Err(ApiError::bad_request(
            "ruleConfig with the values of its rollout must have at most 512 KiB",
        ));
    }
    Ok(())
}

fn as_evaluated(variation: &super::model::Variation) -> eval::Variation {
    let super::model::Variation {
        id, value, name, ..
    } = variation.clone();
    eval::Variation { id, value, name }
}

/// Keeps the segment of a segment rule from being deleted until the change is
/// made. An unknown segment is no error: the rule matches once there is one.
async fn hold_segment(change: &mut Change, checked: &Checked) -> Result<(), sqlx::Error> {
    if let RuleConfig::Segment(key) = &checked.config {
        sqlx::query("select from segments where project_id = $1 and key = $2 for key share")
            .bind(change.project())
            .bind(key)
            .execute(change.connection())
            .await?;
    }
    Ok(())
}

/// Where a rule stands.
struct Placed<'a> {
    priority: i32,
    channel: Option<&'a str>,
}

async fn insert(
    change: &mut Change,
    flag: i64,
    rule_type: &str,
    checked: &Checked,
    placed: &Placed<'_>,
) -> Result<Rule, sqlx::Error> {
    sqlx::query_as(
        "insert into flag_rules
            (project_id, flag_id, priority, rule_type, variant_value, rule_config, channel_name, created_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8)
         returning id, flag_id, priority, rule_type, variant_value, rule_config, channel_name, created_at",
    )
    .bind(change.project())
    .bind(flag)
    .bind(placed.priority)
    .bind(rule_type)
    .bind(&checked.variant_value)
    .bind(&checked.canonical)
    .bind(placed.channel)
    .bind(change.at())
    .fetch_one(change.connection())
    .await
}

async fn find(change: &mut Change, flag: i64, rule: i64) -> Result<Option<Rule>, sqlx::Error> {
    sqlx::query_as(
        "select id, flag_id, priority, rule_type, variant_value, rule_config, channel_name, created_at
         from flag_rules where project_id = $1 and flag_id = $2 and id = $3",
    )
    .bind(change.project())
    .bind(flag)
    .bind(rule)
    .fetch_optional(change.connection())
    .await
}

async fn replace(
    change: &mut Change,
    rule: i64,
    checked: &Checked,
    priority: i32,
) -> Result<Rule, sqlx::Error> {
    sqlx::query_as(
        "update flag_rules set variant_value = $3, rule_config = $4, priority = $5
         where project_id = $1 and id = $2
         returning id, flag_id, priority, rule_type, variant_value, rule_config, channel_name, created_at",
    )
    .bind(change.project())
    .bind(rule)
    .bind(&checked.variant_value)
    .bind(&checked.canonical)
    .bind(priority)
    .fetch_one(change.connection())
    .await
}

async fn remove(change: &mut Change, flag: i64, rule: i64) -> Result<bool, sqlx::Error> {
    let delete =
        sqlx::query("delete from flag_rules where project_id = $1 and flag_id = $2 and id = $3");
    let deleted = delete.bind(change.project()).bind(flag).bind(rule);
    Ok(deleted.execute(change.connection()).await?.rows_affected() == 1)
}
