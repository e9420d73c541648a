//! Variations of a flag. Rules and defaults refer to them by value, so a new
//! value takes the old one's place wherever that stands.

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use super::input::{UpdateVariation, typed};
use super::model::Variation;
use super::{rules, store};
use crate::ApiState;
use crate::audit::Action;
use crate::change::Change;
use crate::error::{ApiError, ApiResult};
use crate::extract::{JsonBody, Path};
use crate::flags::eval;
use crate::scope::Editor;
use crate::text;
use crate::version::{IfMatch, Version};

/// Changes a variation, and with its value everything that gives it.
#[utoipa::path(patch, path = "/flags/{id}/variations/{variationId}", tag = "flags",
    security(("bearer" = ["editor"])),
    params(("id" = i64, Path), ("variationId" = i64, Path),
           ("If-Match" = Option<String>, Header, description = "Versions, any of which it must have")),
    request_body = UpdateVariation,
    responses((status = 200, body = Variation, headers(("etag" = String))),
              (status = 412, description = "The flag was changed since that version")))]
pub(super) async fn update(
    State(state): State<ApiState>,
    Editor(scope): Editor,
    Path((flag_id, id)): Path<(i64, i64)>,
    if_match: IfMatch,
    JsonBody(body): JsonBody<UpdateVariation>,
) -> ApiResult<(Version, Json<Variation>)> {
    let mut change = Change::begin(&state, &scope).await?;
    let locked = store::lock(&mut change, flag_id).await?;
    let stored = locked
        .variations
        .iter()
        .find(|variation| variation.id == id);
    let stored = stored.ok_or_else(|| ApiError::not_found("variation"))?;
    let mut to = stored.clone();
    if let Some(value) = body.value {
        to.value = typed("value", locked.flag_type, value)?;
        refuse_duplicate(&locked.variations, &to)?;
    }
    if let Some(name) = body.name {
        to.name = text::optional("name", name, text::NAME_CHARS)?;
    }
    if let Some(description) = body.description {
        to.description = text::optional("description", description, text::NOTE_CHARS)?;
    }
    if_match.check(locked.version())?;
    if to == *stored {
        change.undo().await?;
        return Ok((locked.version(), Json(to)));
    }
    write(&mut change, &to).await?;
    if to.value != stored.value {
        replace_value(&mut change, &to, &stored.value).await?;
    }
    store::touch(&mut change, flag_id).await?;
    let details = json!({ "flagId": flag_id, "variationId": id });
    change.audit(Action::VARIATION_UPDATED, id, details).await?;
    let version = Version::of(change.at());
    change.commit().await?;
    Ok((version, Json(to)))
}

fn refuse_duplicate(variations: &[Variation], to: &Variation) -> ApiResult<()> {
    let mut others = variations.iter().filter(|other| other.id != to.id);
    if others.any(|other| eval::equal(&other.value, &to.value)) {
        return Err(ApiError::bad_request(
            "value: another variation has this value",
        ));
    }
    Ok(())
}

async fn write(change: &mut Change, to: &Variation) -> Result<(), sqlx::Error> {
    sqlx::query(
        "update flag_variations set value = $3, name = $4, description = $5
         where project_id = $1 and id = $2",
    )
    .bind(change.project())
    .bind(to.id)
    .bind(&to.value)
    .bind(&to.name)
    .bind(&to.description)
    .execute(change.connection())
    .await?;
    Ok(())
}

/// Puts the new value where the old one stands: the flag's default, channels'
/// defaults, rules, and the slices of rollouts.
async fn replace_value(change: &mut Change, to: &Variation, old_value: &Value) -> ApiResult<()> {
    for statement in [
        "update flags set default_value = $4
         where project_id = $1 and id = $2 and default_value = $3",
        "update flag_env_settings set default_value = $4
         where project_id = $1 and flag_id = $2 and default_value = $3",
        "update flag_rules set variant_value = $4
         where project_id = $1 and flag_id = $2 and variant_value = $3",
    ] {
        sqlx::query(statement)
            .bind(change.project())
            .bind(to.flag_id)
            .bind(old_value)
            .bind(&to.value)
            .execute(change.connection())
            .await?;
    }
    replace_in_slices(change, to).await
}

async fn replace_in_slices(change: &mut Change, to: &Variation) -> ApiResult<()> {
    let largest_bytes: Option<i32> = sqlx::query_scalar(
        "with replaced as (update flag_rules r
         set rule_config = jsonb_set(r.rule_config, '{rollout}', (
             select jsonb_agg(
                 case when (slice -> 'variationId')::bigint = $3
                      then jsonb_set(slice, '{variantValue}', $4) else slice end
                 order by position)
             from jsonb_array_elements(r.rule_config -> 'rollout')
                  with ordinality entries (slice, position)))
         where r.project_id = $1 and r.flag_id = $2 and r.rule_type = 'percentage_rollout'
         returning octet_length(r.rule_config::text) as bytes)
         select max(bytes) from replaced",
    )
    .bind(change.project())
    .bind(to.flag_id)
    .bind(to.id)
    .bind(&to.value)
    .fetch_one(change.connection())
    .await?;
    rules::refuse_large(largest_bytes.unwrap_or(0).unsigned_abs().into())
}
