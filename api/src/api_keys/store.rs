use chrono::{DateTime, Utc};
use sluice_schema::id::ProjectId;
use sqlx::{PgConnection, PgPool};

use super::model::ApiKey;
use crate::auth::token;
use crate::change::Change;
use crate::role::Role;

/// Newest first, revoked ones included.
pub(super) async fn list(pool: &PgPool, project: ProjectId) -> Result<Vec<ApiKey>, sqlx::Error> {
    sqlx::query_as(
        "select id, name, key_prefix, is_active, created_at, last_used_at from api_keys
         where project_id = $1
         order by created_at desc, id desc",
    )
    .bind(project.0)
    .fetch_all(pool)
    .await
}

/// Stores the hash of a key; the row's id.
pub(crate) async fn insert(
    connection: &mut PgConnection,
    project: i64,
    name: &str,
    role: Role,
    key: &str,
    at: DateTime<Utc>,
) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar(
        "insert into api_keys (project_id, name, role, key_hash, key_prefix, created_at)
         values ($1, $2, $3, $4, $5, $6) returning id",
    )
    .bind(project)
    .bind(name)
    .bind(role.as_str())
    .bind(token::hash(key))
    .bind(token::shown_prefix(key))
    .bind(at)
    .fetch_one(connection)
    .await
}

/// Makes an active key useless; its name, if there was one.
pub(super) async fn revoke(change: &mut Change, id: i64) -> Result<Option<String>, sqlx::Error> {
    sqlx::query_scalar(
        "update api_keys set is_active = false
         where project_id = $1 and id = $2 and is_active returning name",
    )
    .bind(change.project())
    .bind(id)
    .fetch_optional(change.connection())
    .await
}

/// Removes a key; its name, if there was one.
pub(super) async fn delete(change: &mut Change, id: i64) -> Result<Option<String>, sqlx::Error> {
    sqlx::query_scalar("delete from api_keys where project_id = $1 and id = $2 returning name")
        .bind(change.project())
        .bind(id)
        .fetch_optional(change.connection())
        .await
}
