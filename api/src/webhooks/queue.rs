//! The outbox as a queue.
//!
//! A claim is a lease: a worker that dies leaves its deliveries to the others
//! when the lease ends, so an event may arrive twice, but not never. An attempt
//! whose outcome nobody wrote down is made again under its old number, so that
//! each delivery has all the attempts it was promised.

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::PgPool;

use super::schedule::Verdict;
use super::sender::Outcome;
use crate::change::Change;

type Result<T> = std::result::Result<T, sqlx::Error>;

/// Longer than an attempt can take.
const LEASE: TimeDelta = TimeDelta::seconds(30);
/// How many are sent to one webhook at once; a few more when two processes
/// claim in the same instant.
const MAX_PER_WEBHOOK: i64 = 4;
/// The same for all webhooks of a project: those that hang leave room for the
/// webhooks of others.
const MAX_PER_PROJECT: i64 = 16;
/// How long settled deliveries are kept.
const RETENTION: TimeDelta = TimeDelta::days(30);

/// A delivery that is ours until the lease ends.
#[derive(Debug, sqlx::FromRow)]
pub(super) struct Claimed {
    pub(super) id: i64,
    pub(super) project_id: i64,
    pub(super) webhook_id: i64,
    pub(super) event: String,
    pub(super) body: String,
    /// This attempt included.
    pub(super) attempt: i32,
    /// Tells this lease from others.
    lease_end: DateTime<Utc>,
    pub(super) url: String,
    secret: Option<String>,
    /// Those that still sign, the newest first.
    former_secrets: Vec<String>,
}

impl Claimed {
    /// What signs, the newest first.
    pub(super) fn secrets(&self) -> Vec<&str> {
        let all = self.secret.iter().chain(&self.former_secrets);
        all.map(String::as_str).collect()
    }
}

/// Takes due deliveries, the oldest first, but only a few per webhook and per
/// project.
pub(super) async fn claim(pool: &PgPool, now: DateTime<Utc>, limit: usize) -> Result<Vec<Claimed>> {
    sqlx::query_as(
        "with busy as (
             select project_id, webhook_id, count(*) as n from webhook_deliveries
             where status = 'pending' and claimed_until > $1 group by project_id, webhook_id
         ), queued as (
             select d.id, d.project_id, d.next_attempt_at, coalesce(b.n, 0) + row_number() over (
                        partition by d.webhook_id order by d.next_attempt_at, d.id) as place
             from webhook_deliveries d left join busy b using (webhook_id)
             where d.status = 'pending' and d.next_attempt_at <= $1
               and (d.claimed_until is null or d.claimed_until <= $1)
         ), fair as (
             select q.id, coalesce((select sum(n) from busy b
                                    where b.project_id = q.project_id)::bigint, 0)
                        + row_number() over (
                          partition by q.project_id order by q.next_attempt_at, q.id) as place
             from queued q where q.place <= $3
         ), due as (
             select id from webhook_deliveries
             where id in (select id from fair where place <= $5)
               and status = 'pending' and (claimed_until is null or claimed_until <= $1)
             order by next_attempt_at, id limit $2
             for update skip locked
         )
         update webhook_deliveries d
         set attempt = d.attempt + case when d.claimed_until is null then 1 else 0 end,
             claimed_until = $4
         from due, webhooks w
         where d.id = due.id and w.id = d.webhook_id
         returning d.id, d.project_id, d.webhook_id, d.event, d.body, d.attempt,
                   d.claimed_until as lease_end,
                   w.url, w.secret,
                   array(select f.secret from webhook_former_secrets f
                         where f.webhook_id = w.id and f.signs_until > $1
                         order by f.id desc) as former_secrets",
    )
    .bind(now)
    .bind(i64::try_from(limit).unwrap_or(i64::MAX))
    .bind(MAX_PER_WEBHOOK)
    .bind(now + LEASE)
    .bind(MAX_PER_PROJECT)
    .fetch_all(pool)
    .await
}

/// Writes down an outcome and ends the lease; false if it is no longer ours.
pub(super) async fn record(
    change: &mut Change,
    claimed: &Claimed,
    outcome: &Outcome,
    verdict: Verdict,
) -> Result<bool> {
    let (status, next_attempt_at) = match verdict {
        Verdict::Delivered => ("success", None),
        Verdict::Retry(pause) => ("pending", Some(change.at() + pause)),
        Verdict::GivenUp => ("failed", None),
    };
    let done = sqlx::query(
        "update webhook_deliveries
         set status = $4, http_status = $5, response_body = $6, error_message = $7,
             next_attempt_at = $8, completed_at = $9, claimed_until = null
         where project_id = $1 and id = $2 and claimed_until = $3 and status = 'pending'",
    )
    .bind(change.project())
    .bind(claimed.id)
    .bind(claimed.lease_end)
    .bind(status)
    .bind(outcome.http_status)
    .bind(&outcome.response_body)
    .bind(&outcome.error)
    .bind(next_attempt_at)
    .bind(next_attempt_at.is_none().then(|| change.at()))
    .execute(change.connection())
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Since when the webhook has failed without a success in between, this
/// outcome included.
pub(super) async fn note_health(
    change: &mut Change,
    webhook: i64,
    outcome: &Outcome,
) -> Result<Option<DateTime<Utc>>> {
    sqlx::query_scalar(
        "update webhooks
         set failing_since = case when $3 then coalesce(failing_since, $4) end
         where project_id = $1 and id = $2 returning failing_since",
    )
    .bind(change.project())
    .bind(webhook)
    .bind(outcome.error.is_some())
    .bind(change.at())
    .fetch_one(change.connection())
    .await
}

pub(super) async fn deactivate(change: &mut Change, webhook: i64) -> Result<()> {
    sqlx::query("update webhooks set is_active = false where project_id = $1 and id = $2")
        .bind(change.project())
        .bind(webhook)
        .execute(change.connection())
        .await?;
    Ok(())
}

/// Removes settled deliveries of long ago; how many.
pub(crate) async fn purge(pool: &PgPool, now: DateTime<Utc>) -> Result<u64> {
    let delete =
        sqlx::query("delete from webhook_deliveries where created_at < $1 and status <> 'pending'");
    Ok(delete
        .bind(now - RETENTION)
        .execute(pool)
        .await?
        .rows_affected())
}
