use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde_json::{Map, Value, json};
use sluice_schema::id::ProjectId;

use super::input::{CreateFlag, UpdateFlag, typed_as_variation};
use super::model::{Flag, FlagDetail, FlagListItem};
use super::reads;
use super::store::{self, FlagChange, Locked};
use crate::ApiState;
use crate::audit::Action;
use crate::caps;
use crate::change::Change;
use crate::error::{ApiError, ApiResult};
use crate::extract::{JsonBody, Path};
use crate::insights::evaluations::store::{CountedFlag, totals_by_flag};
use crate::scope::{Editor, ProjectScope, Viewer};
use crate::text;
use crate::version::{IfMatch, Version};

/// Dates whose evaluations the list of flags counts.
const LISTED_DAYS: i64 = 7;
/// The list of flags waits no longer for how often they were evaluated.
const COUNTS_WAIT: Duration = Duration::from_millis(1_500);

/// All flags of the project, by key.
#[utoipa::path(get, path = "/flags", tag = "flags", security(("bearer" = ["viewer"])),
    responses((status = 200, body = Vec<FlagListItem>)))]
pub(super) async fn list(
    State(state): State<ApiState>,
    Viewer(scope): Viewer,
) -> ApiResult<Json<Vec<FlagListItem>>> {
    let mut flags = reads::list(&state.postgres, scope.project).await?;
    count_evaluations(&state, &scope, &mut flags).await;
    Ok(Json(flags))
}

/// Fills in how often flags were evaluated in the last 7 days. People must be
/// able to switch flags while nothing can be counted: the list is shown anyway.
async fn count_evaluations(state: &ApiState, scope: &ProjectScope, flags: &mut [FlagListItem]) {
    let counted: Vec<CountedFlag> = flags.iter().map(FlagListItem::counted).collect();
    let totals = totals_by_flag(state, scope, &counted, LISTED_DAYS);
    let totals = tokio::time::timeout(COUNTS_WAIT, totals).await;
    match totals {
        Ok(Ok(mut totals)) => flags
            .iter_mut()
            .for_each(|flag| flag.count(totals.remove(&flag.flag.key).unwrap_or_default())),
        Ok(Err(error)) => tracing::warn!(%error, "flags are listed without their counts"),
        Err(_) => tracing::warn!("flags are listed without their counts, which take too long"),
    }
}

/// A flag with its settings, rules and variations.
#[utoipa::path(get, path = "/flags/{id}", tag = "flags", security(("bearer" = ["viewer"])),
    params(("id" = i64, Path)),
    responses((status = 200, body = FlagDetail, headers(("etag" = String)))))]
pub(super) async fn get(
    State(state): State<ApiState>,
    Viewer(scope): Viewer,
    Path(id): Path<i64>,
) -> ApiResult<(Version, Json<FlagDetail>)> {
    let mut snapshot = state.postgres.begin().await?;
    sqlx::query("set transaction isolation level repeatable read, read only")
        .execute(&mut *snapshot)
        .await?;
    let detail = reads::detail(&mut snapshot, scope.project, id).await?;
    let detail = detail.ok_or_else(|| ApiError::not_found("flag"))?;
    Ok((Version::of(detail.flag.updated_at), Json(detail)))
}

/// Makes a flag with its variations.
#[utoipa::path(post, path = "/flags", tag = "flags", security(("bearer" = ["editor"])),
    request_body = CreateFlag,
    responses((status = 201, body = FlagDetail), (status = 409, description = "The key is taken")))]
pub(super) async fn create(
    State(state): State<ApiState>,
    Editor(scope): Editor,
    JsonBody(body): JsonBody<CreateFlag>,
) -> ApiResult<(StatusCode, Json<FlagDetail>)> {
    let new = body.check()?;
    let mut change = Change::begin(&state, &scope).await?;
    caps::FLAGS.leave_room(&mut change).await?;
    let id = store::insert(&mut change, &new).await?;
    let details = json!({ "key": new.key, "flagType": new.flag_type.name() });
    change.audit(Action::FLAG_CREATED, id, details).await?;
    let project = ProjectId(change.project());
    let detail = reads::detail(change.connection(), project, id).await?;
    let detail = detail.ok_or_else(|| ApiError::internal("a new flag cannot be read"))?;
    change.commit().await?;
    Ok((StatusCode::CREATED, Json(detail)))
}

/// Changes a flag; its key and type stay.
#[utoipa::path(patch, path = "/flags/{id}", tag = "flags", security(("bearer" = ["editor"])),
    params(("id" = i64, Path), ("If-Match" = Option<String>, Header, description = "Versions, any of which it must have")),
    request_body = UpdateFlag,
    responses((status = 200, body = Flag, headers(("etag" = String))),
              (status = 412, description = "It was changed since that version")))]
pub(super) async fn update(
    State(state): State<ApiState>,
    Editor(scope): Editor,
    Path(id): Path<i64>,
    if_match: IfMatch,
    JsonBody(body): JsonBody<UpdateFlag>,
) -> ApiResult<(Version, Json<Flag>)> {
    let mut change = Change::begin(&state, &scope).await?;
    let locked = store::lock(&mut change, id).await?;
    let is_off_again = body.enabled == Some(false) && !locked.flag.enabled;
    let (to, mut changed) = difference(&locked, body)?;
    if_match.check(locked.version())?;
    if changed.is_empty() {
        if !(is_off_again && store::kill_overrides(&mut change, id).await?) {
            change.undo().await?;
            return Ok((locked.version(), Json(locked.flag)));
        }
        changed.insert("enabled".to_owned(), json!(false));
    }
    let flag = store::update(&mut change, id, &to).await?;
    let only_switched = changed.keys().all(|field| field == "enabled");
    let action = if only_switched {
        Action::FLAG_TOGGLED
    } else {
        Action::FLAG_UPDATED
    };
    let mut details = changed;
    details.insert("key".to_owned(), json!(flag.key));
    change.audit(action, id, Value::Object(details)).await?;
    change.commit().await?;
    Ok((Version::of(flag.updated_at), Json(flag)))
}

/// What the body changes, and the same for the audit log.
fn difference(locked: &Locked, body: UpdateFlag) -> ApiResult<(FlagChange, Map<String, Value>)> {
    let Locked {
        flag,
        flag_type,
        variations,
    } = locked;
    let name = body
        .name
        .map(|name| text::required("name", &name, text::NAME_CHARS));
    let description = body
        .description
        .map(|given| text::optional("description", given, text::NOTE_CHARS));
    let default_value = body
        .default_value
        .map(|value| typed_as_variation("defaultValue", *flag_type, variations, value));
    let to = FlagChange {
        name: name.transpose()?.filter(|name| *name != flag.name),
        default_value: default_value
            .transpose()?
            .filter(|value| *value != flag.default_value),
        enabled: body.enabled.filter(|enabled| *enabled != flag.enabled),
        description: description
            .transpose()?
            .filter(|given| *given != flag.description),
    };
    let fields = [
        ("name", to.name.as_ref().map(|v| json!(v))),
        ("defaultValue", to.default_value.clone()),
        ("enabled", to.enabled.map(|v| json!(v))),
        ("description", to.description.as_ref().map(|v| json!(v))),
    ];
    let changed = fields
        .into_iter()
        .filter_map(|(key, value)| Some((key.to_owned(), value?)));
    let changed = changed.collect();
    Ok((to, changed))
}

/// Removes a flag with its rules, variations and settings.
#[utoipa::path(delete, path = "/flags/{id}", tag = "flags", security(("bearer" = ["editor"])),
    params(("id" = i64, Path)),
    responses((status = 204), (status = 409, description = "A rollout that is under way uses it")))]
pub(super) async fn delete(
    State(state): State<ApiState>,
    Editor(scope): Editor,
    Path(id): Path<i64>,
) -> ApiResult<StatusCode> {
    let mut change = Change::begin(&state, &scope).await?;
    let key = store::delete(&mut change, id).await?;
    let key = key.ok_or_else(|| ApiError::not_found("flag"))?;
    change
        .audit(Action::FLAG_DELETED, id, json!({ "id": id, "key": key }))
        .await?;
    change.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}
