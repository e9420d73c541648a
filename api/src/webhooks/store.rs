use chrono::TimeDelta;
use sluice_schema::id::ProjectId;
use sqlx::PgPool;

use super::model::{DeliveryRow, NewWebhook, Webhook, WebhookChange};
use crate::change::Change;
use crate::error::{ApiError, ApiResult};

type Result<T> = std::result::Result<T, sqlx::Error>;

const MAX_WEBHOOKS: i64 = 50;
const MAX_DELIVERIES: i64 = 50;
/// How long a replaced secret goes on signing.
const ROTATION: TimeDelta = TimeDelta::hours(24);

/// Newest first, without secrets.
pub(super) async fn list(pool: &PgPool, project: ProjectId) -> Result<Vec<Webhook>> {
    sqlx::query_as(
        "select id, project_id, url, events, is_active, secret is not null as has_secret, created_at
         from webhooks where project_id = $1 order by created_at desc, id desc",
    )
    .bind(project.0)
    .fetch_all(pool)
    .await
}

/// Makes a webhook; the answer holds its secret.
pub(super) async fn insert(change: &mut Change, new: &NewWebhook) -> ApiResult<Webhook> {
    refuse_too_many(change).await?;
    let webhook = sqlx::query_as(
        "insert into webhooks (project_id, url, events, secret, created_at)
         values ($1, $2, $3, $4, $5)
         returning id, project_id, url, events, is_active, secret, secret is not null as has_secret,
                   created_at",
    )
    .bind(change.project())
    .bind(&new.url)
    .bind(&new.events)
    .bind(&new.secret)
    .bind(change.at())
    .fetch_one(change.connection())
    .await?;
    Ok(webhook)
}

/// The lock makes the count hold until the change is made.
async fn refuse_too_many(change: &mut Change) -> ApiResult<()> {
    let project = change.project();
    sqlx::query("select from projects where id = $1 for no key update")
        .bind(project)
        .execute(change.connection())
        .await?;
    let count: i64 = sqlx::query_scalar("select count(*) from webhooks where project_id = $1")
        .bind(project)
        .fetch_one(change.connection())
        .await?;
    if count >= MAX_WEBHOOKS {
        return Err(ApiError::bad_request(format!(
            "a project has at most {MAX_WEBHOOKS} webhooks"
        )));
    }
    Ok(())
}

/// Whether there is such a webhook.
pub(super) async fn exists(pool: &PgPool, project: ProjectId, id: i64) -> Result<bool> {
    let found = sqlx::query("select from webhooks where project_id = $1 and id = $2")
        .bind(project.0)
        .bind(id)
        .fetch_optional(pool)
        .await?;
    Ok(found.is_some())
}

/// Locks a webhook for a change; whether there is one. Whoever changes a
/// webhook and its deliveries locks the webhook first.
pub(super) async fn lock(change: &mut Change, id: i64) -> Result<bool> {
    let found = sqlx::query("select from webhooks where project_id = $1 and id = $2 for update")
        .bind(change.project())
        .bind(id)
        .fetch_optional(change.connection())
        .await?;
    Ok(found.is_some())
}

/// Changes a webhook. A new secret lets the old one sign for a day; switching
/// it on, or pointing it elsewhere, forgets its failures.
pub(super) async fn update(change: &mut Change, id: i64, to: &WebhookChange) -> Result<()> {
    sqlx::query(
        "update webhooks set
            url = coalesce($3, url),
            events = coalesce($4, events),
            is_active = coalesce($5, is_active),
            failing_since = case when $5 or $3 <> url then null else failing_since end,
            secret = case when $6 then $7 else secret end,
            previous_secret = case
                when not $6 then previous_secret
                when $7::text is null then null
                when $7 is distinct from secret then secret
                else previous_secret end,
            previous_secret_until = case
                when $6 and $7 is distinct from secret then $8 else previous_secret_until end
         where project_id = $1 and id = $2",
    )
    .bind(change.project())
    .bind(id)
    .bind(&to.url)
    .bind(&to.events)
    .bind(to.is_active)
    .bind(to.secret.is_some())
    .bind(to.secret.as_ref().and_then(Option::as_ref))
    .bind(change.at() + ROTATION)
    .execute(change.connection())
    .await?;
    if to.is_active == Some(false) {
        cancel_pending(change, id).await?;
    }
    Ok(())
}

/// Gives up what was still to be sent to a webhook that was switched off.
pub(super) async fn cancel_pending(change: &mut Change, webhook: i64) -> Result<()> {
    sqlx::query(
        "update webhook_deliveries
         set status = 'failed', error_message = 'the webhook was switched off', completed_at = $3,
             next_attempt_at = null, claimed_until = null
         where project_id = $1 and webhook_id = $2 and status = 'pending'",
    )
    .bind(change.project())
    .bind(webhook)
    .bind(change.at())
    .execute(change.connection())
    .await?;
    Ok(())
}

/// Removes a webhook with its deliveries; whether there was one.
pub(super) async fn delete(change: &mut Change, id: i64) -> Result<bool> {
    let delete = sqlx::query("delete from webhooks where project_id = $1 and id = $2");
    let deleted = delete
        .bind(change.project())
        .bind(id)
        .execute(change.connection())
        .await?;
    Ok(deleted.rows_affected() == 1)
}

/// The newest deliveries to a webhook. While an attempt is under way no other
/// is planned.
pub(super) async fn deliveries(
    pool: &PgPool,
    project: ProjectId,
    webhook: i64,
) -> Result<Vec<DeliveryRow>> {
    sqlx::query_as(
        "select id, webhook_id, event, body, status, http_status, response_body, error_message,
                attempt, created_at, completed_at,
                case when attempt > 0 and claimed_until is null then next_attempt_at end as next_retry_at
         from webhook_deliveries where project_id = $1 and webhook_id = $2
         order by created_at desc, id desc limit $3",
    )
    .bind(project.0)
    .bind(webhook)
    .bind(MAX_DELIVERIES)
    .fetch_all(pool)
    .await
}
