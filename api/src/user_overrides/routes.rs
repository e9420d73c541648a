use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;

use super::model::{CreateUserOverride, UserOverride};
use super::store;
use crate::ApiState;
use crate::audit::Action;
use crate::branches;
use crate::change::Change;
use crate::error::{ApiError, ApiResult};
use crate::extract::{JsonBody, Path};
use crate::scope::{Editor, Viewer};
use crate::text;

/// What devices send when they have no user.
const NO_USER: &str = "none";

/// Newest first.
#[utoipa::path(get, path = "/user-overrides", tag = "user overrides",
    security(("bearer" = ["viewer"])), responses((status = 200, body = Vec<UserOverride>)))]
pub(super) async fn list(
    State(state): State<ApiState>,
    Viewer(scope): Viewer,
) -> ApiResult<Json<Vec<UserOverride>>> {
    Ok(Json(store::list(&state.postgres, scope.project).await?))
}

/// Gives a user a branch, in place of the one given before.
#[utoipa::path(post, path = "/user-overrides", tag = "user overrides",
    security(("bearer" = ["editor"])), request_body = CreateUserOverride,
    responses((status = 201, body = UserOverride)))]
pub(super) async fn create(
    State(state): State<ApiState>,
    Editor(scope): Editor,
    JsonBody(body): JsonBody<CreateUserOverride>,
) -> ApiResult<(StatusCode, Json<UserOverride>)> {
    let user = text::required("userId", &body.user_id, text::KEY_CHARS)?;
    if user == NO_USER {
        return Err(ApiError::bad_request(
            "userId must not be `none`: devices without a user send it",
        ));
    }
    let branch = text::required("branchName", &body.branch_name, text::NAME_CHARS)?;
    let note = text::optional("note", body.note, text::NOTE_CHARS)?;
    let mut change = Change::begin(&state, &scope).await?;
    branches::store::hold(&mut change, "branchName", &branch).await?;
    let made = store::upsert(&mut change, &user, &branch, note.as_deref()).await?;
    change
        .audit(Action::USER_OVERRIDE_CREATED, made.id, made.details())
        .await?;
    change.commit().await?;
    Ok((StatusCode::CREATED, Json(made)))
}

/// Lets the user go back to what the channel says.
#[utoipa::path(delete, path = "/user-overrides/{id}", tag = "user overrides",
    security(("bearer" = ["editor"])), params(("id" = i64, Path)), responses((status = 204)))]
pub(super) async fn delete(
    State(state): State<ApiState>,
    Editor(scope): Editor,
    Path(id): Path<i64>,
) -> ApiResult<StatusCode> {
    let mut change = Change::begin(&state, &scope).await?;
    let deleted = store::delete(&mut change, id).await?;
    let deleted = deleted.ok_or_else(|| ApiError::not_found("user override"))?;
    change
        .audit(Action::USER_OVERRIDE_DELETED, id, deleted.details())
        .await?;
    change.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}
