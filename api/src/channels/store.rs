use sluice_schema::id::ProjectId;
use sqlx::PgPool;

use super::model::{Channel, ChannelChange};
use crate::change::Change;

/// Newest first.
pub(super) async fn list(pool: &PgPool, project: ProjectId) -> Result<Vec<Channel>, sqlx::Error> {
    sqlx::query_as(
        "select id, project_id, name, branch_name, rollout_branch_name, rollout_percentage,
                min_runtime_version, created_at
         from channels
         where project_id = $1
         order by created_at desc, id desc",
    )
    .bind(project.0)
    .fetch_all(pool)
    .await
}

pub(super) async fn insert(
    change: &mut Change,
    name: &str,
    branch: &str,
) -> Result<Channel, sqlx::Error> {
    sqlx::query_as(
        "insert into channels (project_id, name, branch_name, created_at) values ($1, $2, $3, $4)
         returning id, project_id, name, branch_name, rollout_branch_name, rollout_percentage,
                   min_runtime_version, created_at",
    )
    .bind(change.project())
    .bind(name)
    .bind(branch)
    .bind(change.at())
    .fetch_one(change.connection())
    .await
}

/// The channel, locked for a change.
pub(super) async fn lock(change: &mut Change, name: &str) -> Result<Option<Channel>, sqlx::Error> {
    sqlx::query_as(
        "select id, project_id, name, branch_name, rollout_branch_name, rollout_percentage,
                min_runtime_version, created_at
         from channels where project_id = $1 and name = $2 for update",
    )
    .bind(change.project())
    .bind(name)
    .fetch_optional(change.connection())
    .await
}

pub(super) async fn update(
    change: &mut Change,
    id: i64,
    to: &ChannelChange,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "update channels set
            branch_name = coalesce($3, branch_name),
            rollout_branch_name = case when $4 then $5 else rollout_branch_name end,
            rollout_percentage = coalesce($6, rollout_percentage),
            min_runtime_version = case when $7 then $8 else min_runtime_version end
         where project_id = $1 and id = $2",
    )
    .bind(change.project())
    .bind(id)
    .bind(&to.branch_name)
    .bind(to.rollout_branch_name.is_some())
    .bind(to.rollout_branch_name.as_ref().and_then(Option::as_ref))
    .bind(to.rollout_percentage)
    .bind(to.min_runtime_version.is_some())
    .bind(to.min_runtime_version.as_ref().and_then(Option::as_ref))
    .execute(change.connection())
    .await?;
    Ok(())
}

/// The id of the channel that was.
pub(super) async fn delete(change: &mut Change, name: &str) -> Result<Option<i64>, sqlx::Error> {
    sqlx::query_scalar("delete from channels where project_id = $1 and name = $2 returning id")
        .bind(change.project())
        .bind(name)
        .fetch_optional(change.connection())
        .await
}
