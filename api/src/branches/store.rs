use sluice_schema::id::ProjectId;
use sqlx::PgPool;

use super::model::Branch;
use crate::change::Change;
use crate::error::{ApiError, ApiResult};

/// Newest first.
pub(super) async fn list(pool: &PgPool, project: ProjectId) -> Result<Vec<Branch>, sqlx::Error> {
    sqlx::query_as(
        "select id, project_id, name, created_at from branches
         where project_id = $1
         order by created_at desc, id desc",
    )
    .bind(project.0)
    .fetch_all(pool)
    .await
}

pub(super) async fn insert(change: &mut Change, name: &str) -> Result<Branch, sqlx::Error> {
    sqlx::query_as(
        "insert into branches (project_id, name, created_at) values ($1, $2, $3)
         returning id, project_id, name, created_at",
    )
    .bind(change.project())
    .bind(name)
    .bind(change.at())
    .fetch_one(change.connection())
    .await
}

/// The id of the branch that was; a conflict while something refers to it.
pub(super) async fn delete(change: &mut Change, name: &str) -> Result<Option<i64>, sqlx::Error> {
    sqlx::query_scalar("delete from branches where project_id = $1 and name = $2 returning id")
        .bind(change.project())
        .bind(name)
        .fetch_optional(change.connection())
        .await
}

/// Keeps the branch from being deleted until the change is made; 400 if there
/// is none. `field` is the one that names it.
pub(crate) async fn hold(change: &mut Change, field: &str, name: &str) -> ApiResult<()> {
    let found =
        sqlx::query("select from branches where project_id = $1 and name = $2 for key share")
            .bind(change.project())
            .bind(name)
            .fetch_optional(change.connection())
            .await?;
    match found {
        Some(_) => Ok(()),
        None => Err(ApiError::bad_request(format!(
            "{field}: there is no such branch"
        ))),
    }
}
