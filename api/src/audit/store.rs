use chrono::{DateTime, Utc};
use serde_json::Value;
use sluice_schema::id::ProjectId;
use sqlx::{PgConnection, PgPool};

use super::Action;
use super::action::{canonical_action, canonical_entity};
use super::model::{AuditEntry, AuditFilter};
use crate::scope::Actor;

/// A row to be.
pub(crate) struct NewEntry<'a> {
    pub(crate) project: ProjectId,
    pub(crate) action: Action,
    pub(crate) entity_id: Option<i64>,
    pub(crate) details: Value,
    pub(crate) actor: Option<&'a Actor>,
    pub(crate) at: DateTime<Utc>,
}

pub(crate) async fn insert(
    connection: &mut PgConnection,
    entry: NewEntry<'_>,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "insert into audit_log
            (project_id, action, entity_type, entity_id, details, actor_type, actor_id, actor_name, created_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
    )
    .bind(entry.project.0)
    .bind(entry.action.name)
    .bind(entry.action.entity)
    .bind(entry.entity_id)
    .bind(entry.details)
    .bind(entry.actor.map(Actor::kind))
    .bind(entry.actor.map(Actor::id))
    .bind(entry.actor.map(Actor::name))
    .bind(entry.at)
    .execute(connection)
    .await?;
    Ok(())
}

/// Newest first, at most `limit`.
pub(super) async fn list(
    pool: &PgPool,
    project: ProjectId,
    filter: &AuditFilter,
    limit: i64,
) -> Result<Vec<AuditEntry>, sqlx::Error> {
    sqlx::query_as(
        "select id, action, entity_type, entity_id, details, created_at, actor_type, actor_name
         from audit_log
         where project_id = $1
           and ($2::bigint is null or id < $2)
           and ($3::text is null or action = $3)
           and ($4::text is null or entity_type = $4)
           and ($5::bigint is null or entity_id = $5)
         order by id desc
         limit $6",
    )
    .bind(project.0)
    .bind(filter.before)
    .bind(filter.action.as_deref().map(canonical_action))
    .bind(filter.entity_type.as_deref().map(canonical_entity))
    .bind(filter.entity_id)
    .bind(limit)
    .fetch_all(pool)
    .await
}

/// What was done to an update, that it was published among it; newest first.
pub(crate) async fn of_update(
    pool: &PgPool,
    project: ProjectId,
    update: i64,
    limit: i64,
) -> Result<Vec<AuditEntry>, sqlx::Error> {
    sqlx::query_as(
        "select id, action, entity_type, entity_id, details, created_at, actor_type, actor_name
         from audit_log
         where project_id = $1
           and ((entity_type = 'update' and entity_id = $2)
                or (action = 'build.published' and details ->> 'updateId' = $2::text))
         order by id desc
         limit $3",
    )
    .bind(project.0)
    .bind(update)
    .bind(limit)
    .fetch_all(pool)
    .await
}
