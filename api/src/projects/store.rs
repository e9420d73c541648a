use chrono::{DateTime, Utc};
use sluice_schema::id::ProjectId;
use sqlx::{PgConnection, PgPool};

use super::model::Project;
use super::slug::Slug;
use crate::auth;
use crate::auth::credential::Credential;
use crate::change::Change;
use crate::error::ApiError;
use crate::error::ApiResult;
use crate::role::Role;

/// How many taken slugs are tried before giving up.
const SLUG_ATTEMPTS: usize = 1000;

/// The projects of the caller, oldest first.
pub(super) async fn list(pool: &PgPool, caller: &Credential) -> Result<Vec<Project>, sqlx::Error> {
    match caller {
        Credential::Session(user) => {
            sqlx::query_as(
                "select p.id, p.uuid, p.name, p.slug, p.created_at, p.treat_default_channel_as
                 from projects p join memberships m on m.project_id = p.id
                 where m.user_id = $1
                 order by p.created_at, p.id",
            )
            .bind(user.id)
            .fetch_all(pool)
            .await
        }
        Credential::Key(key) => {
            sqlx::query_as(
                "select id, uuid, name, slug, created_at, treat_default_channel_as
                 from projects where id = $1",
            )
            .bind(key.project.0)
            .fetch_all(pool)
            .await
        }
    }
}

/// Makes an empty project. A taken slug is a conflict.
pub(crate) async fn insert(
    connection: &mut PgConnection,
    name: &str,
    slug: &Slug,
    at: DateTime<Utc>,
) -> Result<Project, sqlx::Error> {
    sqlx::query_as(
        "insert into projects (name, slug, created_at) values ($1, $2, $3)
         returning id, uuid, name, slug, created_at, treat_default_channel_as",
    )
    .bind(name)
    .bind(slug.as_str())
    .bind(at)
    .fetch_one(connection)
    .await
}

/// Makes an empty project with the first free of the slug's candidates.
pub(crate) async fn insert_with_free_slug(
    connection: &mut PgConnection,
    name: &str,
    slug: &Slug,
    at: DateTime<Utc>,
) -> ApiResult<Project> {
    for candidate in slug.candidates().take(SLUG_ATTEMPTS) {
        let project = sqlx::query_as(
            "insert into projects (name, slug, created_at) values ($1, $2, $3)
             on conflict (slug) do nothing
             returning id, uuid, name, slug, created_at, treat_default_channel_as",
        )
        .bind(name)
        .bind(candidate.as_str())
        .bind(at)
        .fetch_optional(&mut *connection)
        .await?;
        if let Some(project) = project {
            return Ok(project);
        }
    }
    Err(ApiError::conflict("this slug is taken"))
}

/// What every new project has: an admin, branch `main`, channel `production`.
pub(crate) async fn furnish(
    connection: &mut PgConnection,
    project: i64,
    admin: i64,
    at: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    auth::store::add_member(connection, project, admin, Role::Admin, at).await?;
    add_main_branch(connection, project, at).await
}

/// Branch `main` and channel `production` on it.
pub(crate) async fn add_main_branch(
    connection: &mut PgConnection,
    project: i64,
    at: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    sqlx::query("insert into branches (project_id, name, created_at) values ($1, 'main', $2)")
        .bind(project)
        .bind(at)
        .execute(&mut *connection)
        .await?;
    sqlx::query(
        "insert into channels (project_id, name, branch_name, created_at)
         values ($1, 'production', 'main', $2)",
    )
    .bind(project)
    .bind(at)
    .execute(connection)
    .await?;
    Ok(())
}

/// The project, locked for a change.
pub(super) async fn lock(change: &mut Change) -> Result<Option<Project>, sqlx::Error> {
    sqlx::query_as(
        "select id, uuid, name, slug, created_at, treat_default_channel_as
         from projects where id = $1 for no key update",
    )
    .bind(change.project())
    .fetch_optional(change.connection())
    .await
}

/// Stores what can be changed of a project that this change has locked.
pub(super) async fn update(change: &mut Change, project: &Project) -> Result<(), sqlx::Error> {
    sqlx::query("update projects set treat_default_channel_as = $2 where id = $1")
        .bind(change.project())
        .bind(&project.treat_default_channel_as)
        .execute(change.connection())
        .await?;
    Ok(())
}

/// Whether the user is a member of no other project. Locks the memberships, so
/// that two deletions at once do not leave none.
pub(super) async fn is_last_of(
    connection: &mut PgConnection,
    user: i64,
) -> Result<bool, sqlx::Error> {
    let projects: Vec<i64> =
        sqlx::query_scalar("select project_id from memberships where user_id = $1 for update")
            .bind(user)
            .fetch_all(connection)
            .await?;
    Ok(projects.len() <= 1)
}

/// Deletes the project with all it owns; its name, unless it was gone already.
///
/// Cascades run in no promised order, so what others refer to without a cascade
/// goes last: stored files after builds and updates.
pub(super) async fn delete(
    connection: &mut PgConnection,
    project: ProjectId,
) -> Result<Option<String>, sqlx::Error> {
    for statement in [
        "delete from updates where project_id = $1",
        "delete from builds where project_id = $1",
        "delete from user_overrides where project_id = $1",
        "delete from channels where project_id = $1",
        "delete from release_links where project_id = $1",
        "delete from audit_log where project_id = $1",
    ] {
        sqlx::query(statement)
            .bind(project.0)
            .execute(&mut *connection)
            .await?;
    }
    sqlx::query_scalar("delete from projects where id = $1 returning name")
        .bind(project.0)
        .fetch_optional(connection)
        .await
}
