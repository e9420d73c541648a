use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde_json::{Map, Value, json};
use sluice_schema::id::ProjectId;

use super::model::{CreateWebhook, Delivery, UpdateWebhook, Webhook, WebhookChange};
use super::{address, store};
use crate::ApiState;
use crate::audit::Action;
use crate::change::Change;
use crate::error::{ApiError, ApiResult};
use crate::extract::{JsonBody, Path};
use crate::scope::{Editor, Viewer};

/// Newest first.
#[utoipa::path(get, path = "/webhooks", tag = "webhooks", security(("bearer" = ["viewer"])),
    responses((status = 200, body = Vec<Webhook>)))]
pub(super) async fn list(
    State(state): State<ApiState>,
    Viewer(scope): Viewer,
) -> ApiResult<Json<Vec<Webhook>>> {
    Ok(Json(store::list(&state.postgres, scope.project).await?))
}

/// Makes a webhook. The answer is the only place where its secret can be read.
#[utoipa::path(post, path = "/webhooks", tag = "webhooks", security(("bearer" = ["editor"])),
    request_body = CreateWebhook, responses((status = 201, body = Webhook)))]
pub(super) async fn create(
    State(state): State<ApiState>,
    Editor(scope): Editor,
    JsonBody(body): JsonBody<CreateWebhook>,
) -> ApiResult<(StatusCode, Json<Webhook>)> {
    let new = body.check()?;
    refuse_inside(&state, &new.url).await?;
    let mut change = Change::begin(&state, &scope).await?;
    let webhook = store::insert(&mut change, &new).await?;
    let details =
        json!({ "url": webhook.url, "events": webhook.events, "isActive": webhook.is_active });
    change
        .audit(Action::WEBHOOK_CREATED, webhook.id, details)
        .await?;
    change.commit().await?;
    Ok((StatusCode::CREATED, Json(webhook)))
}

/// Changes a webhook. Switching it off gives up what was still to be sent.
#[utoipa::path(patch, path = "/webhooks/{id}", tag = "webhooks",
    security(("bearer" = ["editor"])), params(("id" = i64, Path)), request_body = UpdateWebhook,
    responses((status = 204)))]
pub(super) async fn update(
    State(state): State<ApiState>,
    Editor(scope): Editor,
    Path(id): Path<i64>,
    JsonBody(body): JsonBody<UpdateWebhook>,
) -> ApiResult<StatusCode> {
    refuse_unknown(&state, scope.project, id).await?;
    let to = body.check()?;
    if let Some(url) = &to.url {
        refuse_inside(&state, url).await?;
    }
    let mut change = Change::begin(&state, &scope).await?;
    let stored = store::lock(&mut change, id).await?;
    let stored = stored.ok_or_else(|| ApiError::not_found("webhook"))?;
    let to = to.unlike(&stored);
    if to != WebhookChange::default() {
        store::update(&mut change, id, &stored, &to).await?;
        change
            .audit(Action::WEBHOOK_UPDATED, id, details(&to))
            .await?;
    }
    change.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// 400 for an address inside the operator's network, unless the operator allows it.
async fn refuse_inside(state: &ApiState, url: &str) -> ApiResult<()> {
    if !state.policy.allow_private_webhooks && address::leads_inside(url).await {
        return Err(ApiError::bad_request("url must lead to a public address"));
    }
    Ok(())
}

async fn refuse_unknown(state: &ApiState, project: ProjectId, id: i64) -> ApiResult<()> {
    if !store::exists(&state.postgres, project, id).await? {
        return Err(ApiError::not_found("webhook"));
    }
    Ok(())
}

/// What was changed; of the secret only that it was.
fn details(to: &WebhookChange) -> Value {
    let fields = [
        ("url", to.url.as_ref().map(|v| json!(v))),
        ("events", to.events.as_ref().map(|v| json!(v))),
        ("isActive", to.is_active.map(|v| json!(v))),
        ("secretChanged", to.secret.as_ref().map(|_| json!(true))),
    ];
    let changed = fields
        .into_iter()
        .filter_map(|(key, value)| Some((key.to_owned(), value?)));
    Value::Object(changed.collect::<Map<_, _>>())
}

/// Removes a webhook with its deliveries.
#[utoipa::path(delete, path = "/webhooks/{id}", tag = "webhooks",
    security(("bearer" = ["editor"])), params(("id" = i64, Path)), responses((status = 204)))]
pub(super) async fn delete(
    State(state): State<ApiState>,
    Editor(scope): Editor,
    Path(id): Path<i64>,
) -> ApiResult<StatusCode> {
    let mut change = Change::begin(&state, &scope).await?;
    if !store::delete(&mut change, id).await? {
        return Err(ApiError::not_found("webhook"));
    }
    change.audit(Action::WEBHOOK_DELETED, id, json!({})).await?;
    change.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The newest 50 deliveries and what came of them.
#[utoipa::path(get, path = "/webhooks/{id}/deliveries", tag = "webhooks",
    security(("bearer" = ["viewer"])), params(("id" = i64, Path)),
    responses((status = 200, body = Vec<Delivery>)))]
pub(super) async fn deliveries(
    State(state): State<ApiState>,
    Viewer(scope): Viewer,
    Path(id): Path<i64>,
) -> ApiResult<Json<Vec<Delivery>>> {
    refuse_unknown(&state, scope.project, id).await?;
    let rows = store::deliveries(&state.postgres, scope.project, id).await?;
    Ok(Json(rows.into_iter().map(Delivery::from).collect()))
}
