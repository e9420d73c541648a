use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde_json::Value;

use super::model::{Context, ContextDetail, ContextFilter, ContextPage, CreateContext, KINDS};
use super::store;
use crate::ApiState;
use crate::audit::Action;
use crate::change::Change;
use crate::error::{ApiError, ApiResult};
use crate::extract::{JsonBody, Path, Query};
use crate::page;
use crate::scope::{Editor, Viewer};
use crate::text;

/// Last seen first.
#[utoipa::path(get, path = "/contexts", tag = "contexts", security(("bearer" = ["viewer"])),
    params(ContextFilter), responses((status = 200, body = ContextPage)))]
pub(super) async fn list(
    State(state): State<ApiState>,
    Viewer(scope): Viewer,
    Query(filter): Query<ContextFilter>,
) -> ApiResult<Json<ContextPage>> {
    let limit = page::limit(filter.limit, 50, 200)?;
    let offset = page::offset(filter.offset)?;
    Ok(Json(
        store::list(&state.postgres, scope.project, &filter, limit, offset).await?,
    ))
}

/// The kinds a context can be of.
#[utoipa::path(get, path = "/contexts/kinds", tag = "contexts",
    security(("bearer" = ["viewer"])), responses((status = 200, body = Vec<String>)))]
pub(super) async fn kinds(_: Viewer) -> Json<[&'static str; KINDS.len()]> {
    Json(KINDS)
}

/// A context and what flags last were for it.
#[utoipa::path(get, path = "/contexts/{id}", tag = "contexts", security(("bearer" = ["viewer"])),
    params(("id" = i64, Path)), responses((status = 200, body = ContextDetail)))]
pub(super) async fn get(
    State(state): State<ApiState>,
    Viewer(scope): Viewer,
    Path(id): Path<i64>,
) -> ApiResult<Json<ContextDetail>> {
    let context = store::get(&state.postgres, scope.project, id).await?;
    context
        .map(Json)
        .ok_or_else(|| ApiError::not_found("context"))
}

/// Makes a context, or changes the one of the same kind and key.
#[utoipa::path(post, path = "/contexts", tag = "contexts", security(("bearer" = ["editor"])),
    request_body = CreateContext, responses((status = 201, body = Context)))]
pub(super) async fn create(
    State(state): State<ApiState>,
    Editor(scope): Editor,
    JsonBody(body): JsonBody<CreateContext>,
) -> ApiResult<(StatusCode, Json<Context>)> {
    let kind = body.kind.as_str();
    if !KINDS.contains(&kind) {
        return Err(ApiError::bad_request(format!(
            "kind must be one of {}",
            KINDS.join(", ")
        )));
    }
    let key = text::required("targetingKey", &body.targeting_key, text::KEY_CHARS)?;
    let name = text::optional("name", body.name, text::NAME_CHARS)?;
    let attributes = body.attributes.map(Value::Object);
    let attributes = attributes
        .map(|a| text::small_json("attributes", a))
        .transpose()?;
    let mut change = Change::begin(&state, &scope).await?;
    let (name, attributes) = (name.as_deref(), attributes.as_ref());
    let context = store::upsert(&mut change, kind, &key, name, attributes).await?;
    change
        .audit(Action::CONTEXT_CREATED, context.id, context.details())
        .await?;
    change.commit().await?;
    Ok((StatusCode::CREATED, Json(context)))
}

/// Removes a context with its history.
#[utoipa::path(delete, path = "/contexts/{id}", tag = "contexts",
    security(("bearer" = ["editor"])), params(("id" = i64, Path)), responses((status = 204)))]
pub(super) async fn delete(
    State(state): State<ApiState>,
    Editor(scope): Editor,
    Path(id): Path<i64>,
) -> ApiResult<StatusCode> {
    let mut change = Change::begin(&state, &scope).await?;
    let deleted = store::delete(&mut change, id).await?;
    let deleted = deleted.ok_or_else(|| ApiError::not_found("context"))?;
    change
        .audit(Action::CONTEXT_DELETED, id, deleted.details())
        .await?;
    change.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}
