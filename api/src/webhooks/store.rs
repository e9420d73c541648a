use chrono::TimeDelta;
use sluice_schema::id::ProjectId;
use sqlx::PgPool;

use super::model::{DeliveryRow, NewWebhook, StoredWebhook, Webhook, WebhookChange};
use crate::caps;
use crate::change::Change;
use crate::error::ApiResult;

type Result<T> = std::result::Result<T, sqlx::Error>;

const MAX_DELIVERIES: i64 = 50;
/// How long a replaced secret goes on signing.
const ROTATION: TimeDelta = TimeDelta::hours(24);
/// Each of them is a signature in a header.
const MAX_FORMER_SECRETS: i64 = 8;

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
    caps::WEBHOOKS.leave_room(change).await?;
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

/// Whether there is such a webhook.
pub(super) async fn exists(pool: &PgPool, project: ProjectId, id: i64) -> Result<bool> {
    let found = sqlx::query("select from webhooks where project_id = $1 and id = $2")
        .bind(project.0)
        .bind(id)
        .fetch_optional(pool)
        .await?;
    Ok(found.is_some())
}

/// Locks a webhook for a change, if there is one. Whoever changes a webhook and
/// its deliveries locks the webhook first.
pub(super) async fn lock(change: &mut Change, id: i64) -> Result<Option<StoredWebhook>> {
    sqlx::query_as(
        "select url, events, is_active, secret from webhooks
         where project_id = $1 and id = $2 for update",
    )
    .bind(change.project())
    .bind(id)
    .fetch_optional(change.connection())
    .await
}

/// Changes a webhook that this change has locked. Switching it on, or pointing
/// it elsewhere, forgets its failures.
pub(super) async fn update(
    change: &mut Change,
    id: i64,
    from: &StoredWebhook,
    to: &WebhookChange,
) -> Result<()> {
    sqlx::query(
        "update webhooks set
            url = coalesce($3, url),
            events = coalesce($4, events),
            is_active = coalesce($5, is_active),
            failing_since = case when $5 or $3 <> url then null else failing_since end,
            secret = case when $6 then $7 else secret end
         where project_id = $1 and id = $2",
    )
    .bind(change.project())
    .bind(id)
    .bind(&to.url)
    .bind(&to.events)
    .bind(to.is_active)
    .bind(to.secret.is_some())
    .bind(to.secret.as_ref().and_then(Option::as_ref))
    .execute(change.connection())
    .await?;
    if let Some(secret) = &to.secret {
        replace_secret(change, id, from.secret.as_deref(), secret.as_deref()).await?;
    }
    if to.is_active == Some(false) {
        cancel_pending(change, id).await?;
    }
    Ok(())
}

/// Lets a secret that is replaced sign for a day, beside those before it that
/// still do; no secret any more ends all of them.
async fn replace_secret(
    change: &mut Change,
    webhook: i64,
    old: Option<&str>,
    new: Option<&str>,
) -> Result<()> {
    sqlx::query(
        "delete from webhook_former_secrets where project_id = $1 and webhook_id = $2
         and ($3::text is null or secret = $3 or signs_until <= $4)",
    )
    .bind(change.project())
    .bind(webhook)
    .bind(new)
    .bind(change.at())
    .execute(change.connection())
    .await?;
    let (Some(old), Some(_)) = (old, new) else {
        return Ok(());
    };
    sqlx::query(
        "with kept as (
             select id from webhook_former_secrets where project_id = $1 and webhook_id = $2
             order by id desc limit $5
         ), gone as (
             delete from webhook_former_secrets where project_id = $1 and webhook_id = $2
             and id not in (select id from kept)
         )
         insert into webhook_former_secrets (project_id, webhook_id, secret, signs_until)
         values ($1, $2, $3, $4)",
    )
    .bind(change.project())
    .bind(webhook)
    .bind(old)
    .bind(change.at() + ROTATION)
    .bind(MAX_FORMER_SECRETS - 1)
    .execute(change.connection())
    .await?;
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
