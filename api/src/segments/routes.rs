use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde_json::json;
use sluice_schema::id::ProjectId;

use super::model::{CreateSegment, Segment, SegmentDetail, UpdateSegment};
use super::store;
use crate::ApiState;
use crate::audit::Action;
use crate::caps;
use crate::change::Change;
use crate::error::{ApiError, ApiResult};
use crate::extract::{JsonBody, Path};
use crate::scope::{Editor, Viewer};
use crate::version::{IfMatch, Version};

/// Newest first.
#[utoipa::path(get, path = "/segments", tag = "segments", security(("bearer" = ["viewer"])),
    responses((status = 200, body = Vec<Segment>)))]
pub(super) async fn list(
    State(state): State<ApiState>,
    Viewer(scope): Viewer,
) -> ApiResult<Json<Vec<Segment>>> {
    Ok(Json(store::list(&state.postgres, scope.project).await?))
}

/// A segment and the flags that use it.
#[utoipa::path(get, path = "/segments/{id}", tag = "segments", security(("bearer" = ["viewer"])),
    params(("id" = i64, Path)),
    responses((status = 200, body = SegmentDetail, headers(("etag" = String)))))]
pub(super) async fn get(
    State(state): State<ApiState>,
    Viewer(scope): Viewer,
    Path(id): Path<i64>,
) -> ApiResult<(Version, Json<SegmentDetail>)> {
    let detail = store::detail(&state.postgres, scope.project, id).await?;
    let detail = detail.ok_or_else(|| ApiError::not_found("segment"))?;
    Ok((Version::of(detail.segment.head.updated_at), Json(detail)))
}

/// Makes a segment.
#[utoipa::path(post, path = "/segments", tag = "segments", security(("bearer" = ["editor"])),
    request_body = CreateSegment,
    responses((status = 201, body = Segment), (status = 409, description = "The key is taken")))]
pub(super) async fn create(
    State(state): State<ApiState>,
    Editor(scope): Editor,
    JsonBody(body): JsonBody<CreateSegment>,
) -> ApiResult<(StatusCode, Json<Segment>)> {
    let new = body.check()?;
    let mut change = Change::begin(&state, &scope).await?;
    caps::SEGMENTS.leave_room(&mut change).await?;
    let id = store::insert(&mut change, &new).await?;
    let segment = read_back(&mut change, id).await?;
    change
        .audit(
            Action::SEGMENT_CREATED,
            id,
            json!({ "key": segment.head.key }),
        )
        .await?;
    change.commit().await?;
    state.estimates.soon(scope.project);
    Ok((StatusCode::CREATED, Json(segment)))
}

/// Changes a segment; its key stays.
#[utoipa::path(patch, path = "/segments/{id}", tag = "segments",
    security(("bearer" = ["editor"])),
    params(("id" = i64, Path), ("If-Match" = Option<String>, Header, description = "Versions, any of which it must have")),
    request_body = UpdateSegment,
    responses((status = 200, body = Segment, headers(("etag" = String))),
              (status = 412, description = "It was changed since that version")))]
pub(super) async fn update(
    State(state): State<ApiState>,
    Editor(scope): Editor,
    Path(id): Path<i64>,
    if_match: IfMatch,
    JsonBody(body): JsonBody<UpdateSegment>,
) -> ApiResult<(Version, Json<Segment>)> {
    let mut change = Change::begin(&state, &scope).await?;
    let locked = store::lock(&mut change, id).await?;
    let (key, updated_at) = locked.ok_or_else(|| ApiError::not_found("segment"))?;
    let to = body.check()?;
    if_match.check(Version::of(updated_at))?;
    let before = read_back(&mut change, id).await?;
    let to = to.unlike(&before);
    if to.is_empty() {
        change.undo().await?;
        return Ok((Version::of(updated_at), Json(before)));
    }
    store::update(&mut change, id, &to).await?;
    change
        .audit(Action::SEGMENT_UPDATED, id, json!({ "key": key }))
        .await?;
    let segment = read_back(&mut change, id).await?;
    change.commit().await?;
    state.estimates.soon(scope.project);
    Ok((Version::of(segment.head.updated_at), Json(segment)))
}

async fn read_back(change: &mut Change, id: i64) -> ApiResult<Segment> {
    let project = ProjectId(change.project());
    let segment = store::find(change.connection(), project, id).await?;
    segment.ok_or_else(|| ApiError::internal("a segment that was just written cannot be read"))
}

/// Removes a segment that no rule uses.
#[utoipa::path(delete, path = "/segments/{id}", tag = "segments",
    security(("bearer" = ["editor"])), params(("id" = i64, Path)),
    responses((status = 204), (status = 409, description = "Rules of the named flags use it")))]
pub(super) async fn delete(
    State(state): State<ApiState>,
    Editor(scope): Editor,
    Path(id): Path<i64>,
) -> ApiResult<StatusCode> {
    let mut change = Change::begin(&state, &scope).await?;
    let locked = store::lock(&mut change, id).await?;
    let (key, _) = locked.ok_or_else(|| ApiError::not_found("segment"))?;
    store::delete(&mut change, id, &key).await?;
    change
        .audit(Action::SEGMENT_DELETED, id, json!({ "key": key }))
        .await?;
    change.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}
