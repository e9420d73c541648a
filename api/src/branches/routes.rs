use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde_json::json;

use super::model::{Branch, CreateBranch};
use super::store;
use crate::ApiState;
use crate::audit::Action;
use crate::change::Change;
use crate::error::{ApiError, ApiResult};
use crate::extract::{JsonBody, Path};
use crate::scope::{Editor, Viewer};
use crate::text;
use crate::webhooks::Event;

/// Newest first.
#[utoipa::path(get, path = "/branches", tag = "branches", security(("bearer" = ["viewer"])),
    responses((status = 200, body = Vec<Branch>)))]
pub(super) async fn list(
    State(state): State<ApiState>,
    Viewer(scope): Viewer,
) -> ApiResult<Json<Vec<Branch>>> {
    Ok(Json(store::list(&state.postgres, scope.project).await?))
}

/// Makes a branch.
#[utoipa::path(post, path = "/branches", tag = "branches", security(("bearer" = ["editor"])),
    request_body = CreateBranch,
    responses((status = 201, body = Branch), (status = 409, description = "The name is taken")))]
pub(super) async fn create(
    State(state): State<ApiState>,
    Editor(scope): Editor,
    JsonBody(body): JsonBody<CreateBranch>,
) -> ApiResult<(StatusCode, Json<Branch>)> {
    let name = text::required("name", &body.name, text::NAME_CHARS)?;
    let mut change = Change::begin(&state, &scope).await?;
    let branch = store::insert(&mut change, &name).await?;
    change
        .audit(Action::BRANCH_CREATED, branch.id, json!({ "name": name }))
        .await?;
    change
        .emit(Event::BranchCreated, json!({ "name": name }))
        .await?;
    change.commit().await?;
    Ok((StatusCode::CREATED, Json(branch)))
}

/// Removes a branch that no channel and no user override uses. Its updates stay.
#[utoipa::path(delete, path = "/branches/{name}", tag = "branches",
    security(("bearer" = ["editor"])), params(("name" = String, Path)),
    responses((status = 204), (status = 409, description = "Something uses the branch")))]
pub(super) async fn delete(
    State(state): State<ApiState>,
    Editor(scope): Editor,
    Path(name): Path<String>,
) -> ApiResult<StatusCode> {
    let mut change = Change::begin(&state, &scope).await?;
    let id = store::delete(&mut change, &name).await?;
    let id = id.ok_or_else(|| ApiError::not_found("branch"))?;
    change
        .audit(Action::BRANCH_DELETED, id, json!({ "name": name }))
        .await?;
    change
        .emit(Event::BranchDeleted, json!({ "name": name }))
        .await?;
    change.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}
