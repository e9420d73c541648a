use sluice_schema::id::ProjectId;
use sqlx::PgPool;

use super::model::UserOverride;
use crate::change::Change;

/// Newest first.
pub(super) async fn list(
    pool: &PgPool,
    project: ProjectId,
) -> Result<Vec<UserOverride>, sqlx::Error> {
    sqlx::query_as(
        "select id, project_id, user_id, branch_name, note, created_at from user_overrides
         where project_id = $1
         order by created_at desc, id desc",
    )
    .bind(project.0)
    .fetch_all(pool)
    .await
}

/// Makes it, or changes branch and note of the one that the user has.
pub(super) async fn upsert(
    change: &mut Change,
    user: &str,
    branch: &str,
    note: Option<&str>,
) -> Result<UserOverride, sqlx::Error> {
    sqlx::query_as(
        "insert into user_overrides (project_id, user_id, branch_name, note, created_at)
         values ($1, $2, $3, $4, $5)
         on conflict on constraint user_overrides_user_key
            do update set branch_name = excluded.branch_name, note = excluded.note
         returning id, project_id, user_id, branch_name, note, created_at",
    )
    .bind(change.project())
    .bind(user)
    .bind(branch)
    .bind(note)
    .bind(change.at())
    .fetch_one(change.connection())
    .await
}

/// The override that was.
pub(super) async fn delete(
    change: &mut Change,
    id: i64,
) -> Result<Option<UserOverride>, sqlx::Error> {
    sqlx::query_as(
        "delete from user_overrides where project_id = $1 and id = $2
         returning id, project_id, user_id, branch_name, note, created_at",
    )
    .bind(change.project())
    .bind(id)
    .fetch_optional(change.connection())
    .await
}
