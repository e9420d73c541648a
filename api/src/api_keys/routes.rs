use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde_json::json;

use super::model::{ApiKey, CreateApiKey, CreatedApiKey};
use super::store;
use crate::ApiState;
use crate::audit::Action;
use crate::auth::token;
use crate::change::Change;
use crate::error::{ApiError, ApiResult};
use crate::extract::{JsonBody, Path};
use crate::role::Role;
use crate::scope::Admin;
use crate::text;

/// The keys of the project, newest first, revoked ones included.
#[utoipa::path(get, path = "/auth/api-keys", tag = "API keys", security(("bearer" = ["admin"])),
    responses((status = 200, body = Vec<ApiKey>)))]
pub(super) async fn list(
    State(state): State<ApiState>,
    Admin(scope): Admin,
) -> ApiResult<Json<Vec<ApiKey>>> {
    Ok(Json(store::list(&state.postgres, scope.project).await?))
}

/// Makes a key. The answer is the only place where it can be read.
#[utoipa::path(post, path = "/auth/api-keys", tag = "API keys", security(("bearer" = ["admin"])),
    request_body = CreateApiKey, responses((status = 201, body = CreatedApiKey)))]
pub(super) async fn create(
    State(state): State<ApiState>,
    Admin(scope): Admin,
    JsonBody(body): JsonBody<CreateApiKey>,
) -> ApiResult<(StatusCode, Json<CreatedApiKey>)> {
    let name = text::required("name", &body.name, text::NAME_CHARS)?;
    let role = key_role(body.role.as_deref())?;
    let key = token::random_api_key()?;
    let mut change = Change::begin(&state, &scope).await?;
    let (project, at) = (change.project(), change.at());
    let id = store::insert(change.connection(), project, &name, role, &key, at).await?;
    change
        .audit(
            Action::API_KEY_CREATED,
            id,
            json!({ "name": name, "role": role }),
        )
        .await?;
    change.commit().await?;
    let key_prefix = token::shown_prefix(&key).to_owned();
    Ok((
        StatusCode::CREATED,
        Json(CreatedApiKey {
            id,
            name,
            key,
            key_prefix,
        }),
    ))
}

/// Only admins create keys, so no key can be above its creator.
fn key_role(given: Option<&str>) -> ApiResult<Role> {
    match given.unwrap_or("editor") {
        role @ ("publishable" | "viewer" | "editor" | "admin") => Ok(Role::from_stored(role)),
        _ => Err(ApiError::bad_request(
            "role must be publishable, viewer, editor or admin",
        )),
    }
}

/// Makes a key useless, at every edge within seconds.
#[utoipa::path(post, path = "/auth/api-keys/{id}/revoke", tag = "API keys",
    security(("bearer" = ["admin"])), params(("id" = i64, Path)), responses((status = 204)))]
pub(super) async fn revoke(
    State(state): State<ApiState>,
    Admin(scope): Admin,
    Path(id): Path<i64>,
) -> ApiResult<StatusCode> {
    let mut change = Change::begin(&state, &scope).await?;
    let name = store::revoke(&mut change, id).await?;
    let name = name.ok_or_else(|| ApiError::not_found("active API key"))?;
    change
        .audit(Action::API_KEY_REVOKED, id, json!({ "name": name }))
        .await?;
    change.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Removes a key. What it did stays in the audit log under its name.
#[utoipa::path(delete, path = "/auth/api-keys/{id}", tag = "API keys",
    security(("bearer" = ["admin"])), params(("id" = i64, Path)), responses((status = 204)))]
pub(super) async fn delete(
    State(state): State<ApiState>,
    Admin(scope): Admin,
    Path(id): Path<i64>,
) -> ApiResult<StatusCode> {
    let mut change = Change::begin(&state, &scope).await?;
    let name = store::delete(&mut change, id).await?;
    let name = name.ok_or_else(|| ApiError::not_found("API key"))?;
    change
        .audit(Action::API_KEY_DELETED, id, json!({ "name": name }))
        .await?;
    change.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}
