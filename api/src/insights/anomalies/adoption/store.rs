//! Which updates go to everybody, and what is told of them. Postgres.

use chrono::{DateTime, Utc};
use sqlx::FromRow;
use uuid::Uuid;

use super::Reach;
use crate::insights::anomalies::rules::Severity;
use crate::insights::anomalies::store::Turn;

/// An update that every device of its own should have.
#[derive(Clone, Debug, FromRow)]
pub(super) struct Candidate {
    pub(super) id: i64,
    pub(super) project_id: i64,
    pub(super) update_uuid: Uuid,
    pub(super) channel: String,
    pub(super) platform: String,
    pub(super) runtime_version: String,
    /// Since when it goes to all of them.
    pub(super) full_since: DateTime<Utc>,
}

#[cfg(test)]
impl Candidate {
    pub(super) fn for_tests() -> Self {
        Self {
            id: 1,
            project_id: 1,
            update_uuid: Uuid::nil(),
            channel: String::new(),
            platform: String::new(),
            runtime_version: String::new(),
            full_since: DateTime::UNIX_EPOCH,
        }
    }
}

/// Updates of all projects that go to everybody since a moment at least, that
/// nothing newer takes devices from, and that were not told of; by project.
pub(super) async fn candidates(
    turn: &mut Turn,
    since: DateTime<Utc>,
) -> Result<Vec<Candidate>, sqlx::Error> {
    sqlx::query_as(
        "select u.id, u.project_id, u.update_uuid, u.channel, u.platform, u.runtime_version,
                u.full_since
         from updates u
         where u.full_since <= $1 and not u.is_rollback
           and not exists (
               select from updates newer
               where newer.project_id = u.project_id and newer.platform = u.platform
                 and newer.runtime_version = u.runtime_version and newer.is_enabled
                 and (newer.channel = u.channel or newer.branch_name = u.branch_name)
                 and (newer.created_at, newer.id) > (u.created_at, u.id))
           and not exists (
               select from channels c
               where c.project_id = u.project_id and c.name = u.channel
                 and (c.rollout_branch_name is not null or c.branch_name <> u.branch_name))
           and not exists (
               select from anomalies a
               where a.project_id = u.project_id and a.type = 'adoption_drop'
                 and a.update_id = u.id and a.detected_at >= u.full_since)
         order by u.project_id, u.id",
    )
    .bind(since)
    .fetch_all(turn.connection())
    .await
}

/// A row about an update, unless its channel had one in the running hour.
pub(super) async fn tell(
    turn: &mut Turn,
    update: &Candidate,
    today: Reach,
    description: &str,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "insert into anomalies (project_id, type, channel, severity, status, detected_at,
                description, event_count, affected_devices, platforms, update_id,
                update_runtime_version)
         select p.id, 'adoption_drop', $2, $3, 'healthy', $4, $5, $6, $7, array[$8], $9, $10
         from projects p where p.id = $1
         on conflict do nothing",
    )
    .bind(update.project_id)
    .bind(&update.channel)
    .bind(Severity::Warning.as_str())
    .bind(now)
    .bind(description)
    .bind(today.having.cast_signed())
    .bind((today.active - today.having).cast_signed())
    .bind(&update.platform)
    .bind(update.id)
    .bind(&update.runtime_version)
    .execute(turn.connection())
    .await?;
    Ok(())
}
