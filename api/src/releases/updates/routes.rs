use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde_json::json;
use sluice_schema::id::ProjectId;

use super::model::{
    CreateAsset, CreateUpdate, CreatedUpdate, NewUpdate, PatchUpdate, Update, UpdateFilter,
};
use super::store;
use crate::ApiState;
use crate::audit::{self, Action, AuditEntry};
use crate::change::Change;
use crate::error::{ApiError, ApiResult};
use crate::extract::{JsonBody, Path, Query};
use crate::insights::downloads;
use crate::page;
use crate::releases::publishing::{self, Made};
use crate::releases::{blobs, links};
use crate::scope::{Editor, Viewer};
use crate::webhooks::Event;

const LIMIT: i64 = 100;
const MAX_LIMIT: i64 = 500;
const HISTORY_LIMIT: i64 = 50;
/// The list of updates waits no longer for their downloads.
const COUNTS_WAIT: Duration = Duration::from_millis(1_500);

/// Newest first, rollbacks among them.
#[utoipa::path(get, path = "/updates", tag = "updates", params(UpdateFilter),
    security(("bearer" = ["viewer"])), responses((status = 200, body = Vec<Update>)))]
pub(crate) async fn list(
    State(state): State<ApiState>,
    Viewer(scope): Viewer,
    Query(filter): Query<UpdateFilter>,
) -> ApiResult<Json<Vec<Update>>> {
    let limit = page::limit(filter.limit, LIMIT, MAX_LIMIT)?;
    let page = (limit, page::offset(filter.offset)?);
    let mut updates = store::list(&state.postgres, scope.project, &filter, page).await?;
    count_downloads(&state, scope.project, &mut updates).await;
    Ok(Json(updates))
}

/// Fills in downloads. People must be able to release while nothing can be
/// counted: the list is shown anyway.
async fn count_downloads(state: &ApiState, project: ProjectId, updates: &mut [Update]) {
    let totals = downloads::totals(state, project);
    match tokio::time::timeout(COUNTS_WAIT, totals).await {
        Ok(Ok(totals)) => updates.iter_mut().for_each(|update| update.count(&totals)),
        Ok(Err(error)) => {
            tracing::warn!(
                error = error.message(),
                "updates are listed without their downloads"
            );
        }
        Err(_) => tracing::warn!("updates are listed without their downloads, which take too long"),
    }
}

/// Makes an update of files that were uploaded before.
#[utoipa::path(post, path = "/updates", tag = "updates", security(("bearer" = ["editor"])),
    request_body = CreateUpdate, responses((status = 201, body = CreatedUpdate)))]
pub(crate) async fn create(
    State(state): State<ApiState>,
    Editor(scope): Editor,
    JsonBody(body): JsonBody<CreateUpdate>,
) -> ApiResult<(StatusCode, Json<CreatedUpdate>)> {
    let new = body.check()?;
    let linked = links::check(body.linked_flags)?;
    let mut change = Change::begin(&state, &scope).await?;
    let NewUpdate {
        channel,
        content,
        terms,
        kind,
    } = &new;
    let made = publishing::publish(&mut change, channel, content, terms, *kind, &linked).await?;
    add_assets(&mut change, made.id, &body.assets.unwrap_or_default()).await?;
    let has_build = store::has_build_for(&mut change, content).await?;
    note_created(&mut change, &new, &made).await?;
    change.commit().await?;
    let warning = format!(
        "no build of this project is for {} with runtime version {}",
        new.content.platform, new.content.runtime_version
    );
    let created = CreatedUpdate {
        id: made.id,
        update_uuid: made.update_uuid,
        warning: (!has_build).then_some(warning),
    };
    Ok((StatusCode::CREATED, Json(created)))
}

/// Only files of this project will do.
async fn add_assets(change: &mut Change, update: i64, assets: &[CreateAsset]) -> ApiResult<()> {
    let keys: Vec<&str> = assets.iter().map(|asset| asset.s3_key.as_str()).collect();
    let blobs = blobs::hold(change, &keys).await?;
    if let Some(key) = keys.into_iter().find(|key| !blobs.contains_key(*key)) {
        let message = format!("assets.s3Key: {key:?} was not uploaded to this project");
        return Err(ApiError::bad_request(message));
    }
    Ok(store::insert_assets(change, update, assets, &blobs).await?)
}

async fn note_created(change: &mut Change, new: &NewUpdate, made: &Made) -> ApiResult<()> {
    let details = json!({
        "runtimeVersion": new.content.runtime_version,
        "platform": new.content.platform,
        "channel": new.channel,
    });
    change
        .audit(Action::UPDATE_CREATED, made.id, details)
        .await?;
    let data = json!({
        "update_id": made.id,
        "update_uuid": made.update_uuid,
        "runtime_version": new.content.runtime_version,
        "platform": new.content.platform,
        "channel": new.channel,
    });
    change.emit(Event::UpdateCreated, data).await
}

/// Changes who gets an update, and how.
#[utoipa::path(patch, path = "/updates/{id}", tag = "updates", security(("bearer" = ["editor"])),
    params(("id" = i64, Path)), request_body = PatchUpdate, responses((status = 204)))]
pub(crate) async fn patch(
    State(state): State<ApiState>,
    Editor(scope): Editor,
    Path(id): Path<i64>,
    JsonBody(body): JsonBody<PatchUpdate>,
) -> ApiResult<StatusCode> {
    let mut change = Change::begin(&state, &scope).await?;
    let stored = store::lock(&mut change, id).await?;
    let stored = stored.ok_or_else(|| ApiError::not_found("update"))?;
    let to = body.difference(&stored)?;
    if !to.is_empty() {
        store::update(&mut change, id, &to).await?;
        change
            .audit(Action::UPDATE_PATCHED, id, to.details())
            .await?;
        change.emit(Event::UpdatePatched, to.event_data(id)).await?;
        change.commit().await?;
    }
    Ok(StatusCode::NO_CONTENT)
}

/// Removes an update; devices that run it keep it.
#[utoipa::path(delete, path = "/updates/{id}", tag = "updates", security(("bearer" = ["editor"])),
    params(("id" = i64, Path)),
    responses((status = 204), (status = 409, description = "A rollback targets the update")))]
pub(crate) async fn delete(
    State(state): State<ApiState>,
    Editor(scope): Editor,
    Path(id): Path<i64>,
) -> ApiResult<StatusCode> {
    let mut change = Change::begin(&state, &scope).await?;
    // The constraint decides; this can say which rollback it is.
    if let Some(rollback) = store::rollback_to(&mut change, id).await? {
        let message = format!("rollback {rollback} targets this update");
        return Err(ApiError::conflict(message));
    }
    if !store::delete(&mut change, id).await? {
        return Err(ApiError::not_found("update"));
    }
    change.audit(Action::UPDATE_DELETED, id, json!({})).await?;
    change
        .emit(Event::UpdateDeleted, json!({ "update_id": id }))
        .await?;
    change.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// What was done to an update, newest first, at most 50. Outlives the update.
#[utoipa::path(get, path = "/updates/{id}/history", tag = "updates",
    security(("bearer" = ["viewer"])), params(("id" = i64, Path)),
    responses((status = 200, body = Vec<AuditEntry>)))]
pub(crate) async fn history(
    State(state): State<ApiState>,
    Viewer(scope): Viewer,
    Path(id): Path<i64>,
) -> ApiResult<Json<Vec<AuditEntry>>> {
    let entries =
        audit::store::of_update(&state.postgres, scope.project, id, HISTORY_LIMIT).await?;
    if entries.is_empty() && !store::exists(&state.postgres, scope.project, id).await? {
        return Err(ApiError::not_found("update"));
    }
    Ok(Json(entries))
}
