use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde_json::json;

use super::model::{Channel, ChannelChange, CreateChannel, UpdateChannel};
use super::store;
use crate::ApiState;
use crate::audit::Action;
use crate::branches;
use crate::caps;
use crate::change::Change;
use crate::error::{ApiError, ApiResult};
use crate::extract::{JsonBody, Path};
use crate::scope::{Editor, Viewer};
use crate::text;
use crate::webhooks::Event;

/// Newest first.
#[utoipa::path(get, path = "/channels", tag = "channels", security(("bearer" = ["viewer"])),
    responses((status = 200, body = Vec<Channel>)))]
pub(super) async fn list(
    State(state): State<ApiState>,
    Viewer(scope): Viewer,
) -> ApiResult<Json<Vec<Channel>>> {
    Ok(Json(store::list(&state.postgres, scope.project).await?))
}

/// Points a channel at a branch. Until then a channel means the branch of its
/// own name.
#[utoipa::path(post, path = "/channels", tag = "channels", security(("bearer" = ["editor"])),
    request_body = CreateChannel,
    responses((status = 201, body = Channel), (status = 409, description = "The name is taken")))]
pub(super) async fn create(
    State(state): State<ApiState>,
    Editor(scope): Editor,
    JsonBody(body): JsonBody<CreateChannel>,
) -> ApiResult<(StatusCode, Json<Channel>)> {
    let name = text::required("name", &body.name, text::NAME_CHARS)?;
    let branch = text::required("branchName", &body.branch_name, text::NAME_CHARS)?;
    let mut change = Change::begin(&state, &scope).await?;
    caps::CHANNELS.leave_room(&mut change).await?;
    branches::store::hold(&mut change, "branchName", &branch).await?;
    let channel = store::insert(&mut change, &name, &branch).await?;
    let details = json!({ "name": name, "branchName": branch });
    change
        .audit(Action::CHANNEL_CREATED, channel.id, details)
        .await?;
    let data = json!({ "name": name, "branch_name": branch });
    change.emit(Event::ChannelCreated, data).await?;
    change.commit().await?;
    Ok((StatusCode::CREATED, Json(channel)))
}

/// Changes what a channel serves.
#[utoipa::path(patch, path = "/channels/{name}", tag = "channels",
    security(("bearer" = ["editor"])), params(("name" = String, Path)),
    request_body = UpdateChannel, responses((status = 204)))]
pub(super) async fn update(
    State(state): State<ApiState>,
    Editor(scope): Editor,
    Path(name): Path<String>,
    JsonBody(body): JsonBody<UpdateChannel>,
) -> ApiResult<StatusCode> {
    let mut change = Change::begin(&state, &scope).await?;
    let channel = store::lock(&mut change, &name).await?;
    let channel = channel.ok_or_else(|| ApiError::not_found("channel"))?;
    let to = body.check()?;
    let changed = to.of(&channel);
    if !changed.is_empty() {
        hold_branches(&mut change, &changed).await?;
        store::update(&mut change, channel.id, &changed).await?;
        change
            .audit(Action::CHANNEL_UPDATED, channel.id, changed.details(&name))
            .await?;
        change
            .emit(Event::ChannelUpdated, to.event_data(&name))
            .await?;
    }
    change.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn hold_branches(change: &mut Change, to: &ChannelChange) -> ApiResult<()> {
    if let Some(branch) = &to.branch_name {
        branches::store::hold(change, "branchName", branch).await?;
    }
    if let Some(Some(branch)) = &to.rollout_branch_name {
        branches::store::hold(change, "rolloutBranchName", branch).await?;
    }
    Ok(())
}

/// Removes a channel. Flag settings of its name stay: the name goes on to mean
/// the branch of the same name.
#[utoipa::path(delete, path = "/channels/{name}", tag = "channels",
    security(("bearer" = ["editor"])), params(("name" = String, Path)),
    responses((status = 204)))]
pub(super) async fn delete(
    State(state): State<ApiState>,
    Editor(scope): Editor,
    Path(name): Path<String>,
) -> ApiResult<StatusCode> {
    let mut change = Change::begin(&state, &scope).await?;
    let id = store::delete(&mut change, &name).await?;
    let id = id.ok_or_else(|| ApiError::not_found("channel"))?;
    change
        .audit(Action::CHANNEL_DELETED, id, json!({ "name": name }))
        .await?;
    change
        .emit(Event::ChannelDeleted, json!({ "name": name }))
        .await?;
    change.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}
