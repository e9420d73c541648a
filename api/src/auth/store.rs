use chrono::{DateTime, TimeDelta, Utc};
use sluice_schema::id::ProjectId;
use sqlx::{PgConnection, PgPool};

use super::credential::{Access, KeyHolder, SessionUser};
use super::model::Member;
use super::token;
use crate::error::ApiResult;
use crate::insights::channels::DefaultChannel;
use crate::role::Role;

/// How long a session lives.
const SESSION_LIFETIME: TimeDelta = TimeDelta::days(30);
/// How exact `last_used_at` is.
const LAST_USE_STEP: TimeDelta = TimeDelta::minutes(1);

/// The account of a live session.
pub(super) async fn session(
    pool: &PgPool,
    token_hash: &str,
    now: DateTime<Utc>,
) -> Result<Option<SessionUser>, sqlx::Error> {
    sqlx::query_as(
        "select u.id, u.name, u.email, u.role
         from sessions s join users u on u.id = s.user_id
         where s.token_hash = $1 and s.expires_at > $2 and u.is_active",
    )
    .bind(token_hash)
    .bind(now)
    .fetch_optional(pool)
    .await
}

/// Starts a session; its token.
pub(super) async fn open_session(
    connection: &mut PgConnection,
    user: i64,
    now: DateTime<Utc>,
) -> ApiResult<String> {
    let session_token = token::random_token()?;
    sqlx::query(
        "insert into sessions (token_hash, user_id, created_at, expires_at) values ($1, $2, $3, $4)",
    )
    .bind(token::hash(&session_token))
    .bind(user)
    .bind(now)
    .bind(now + SESSION_LIFETIME)
    .execute(connection)
    .await?;
    Ok(session_token)
}

/// Ends the session of this token, if it is one.
pub(super) async fn close_session(pool: &PgPool, token_hash: &str) -> Result<(), sqlx::Error> {
    let delete = sqlx::query("delete from sessions where token_hash = $1");
    delete.bind(token_hash).execute(pool).await?;
    Ok(())
}

/// Removes sessions that have expired; how many.
pub(crate) async fn purge_sessions(pool: &PgPool, now: DateTime<Utc>) -> Result<u64, sqlx::Error> {
    let delete = sqlx::query("delete from sessions where expires_at <= $1");
    Ok(delete.bind(now).execute(pool).await?.rows_affected())
}

#[derive(sqlx::FromRow)]
struct KeyRow {
    id: i64,
    name: String,
    role: String,
    project_id: i64,
    slug: String,
    treat_default_channel_as: Option<String>,
    last_used_at: Option<DateTime<Utc>>,
}

/// The active key of this hash; notes that it was used.
pub(super) async fn use_key(
    pool: &PgPool,
    key_hash: &str,
    now: DateTime<Utc>,
) -> Result<Option<KeyHolder>, sqlx::Error> {
    let row: Option<KeyRow> = sqlx::query_as(
        "select k.id, k.name, k.role, k.project_id, p.slug, p.treat_default_channel_as,
                k.last_used_at
         from api_keys k join projects p on p.id = k.project_id
         where k.key_hash = $1 and k.is_active",
    )
    .bind(key_hash)
    .fetch_optional(pool)
    .await?;
    let Some(key) = row else {
        return Ok(None);
    };
    let last_used_at = key.last_used_at;
    if last_used_at.is_none_or(|last| last <= now - LAST_USE_STEP) {
        let update = sqlx::query("update api_keys set last_used_at = $2 where id = $1");
        update.bind(key.id).bind(now).execute(pool).await?;
    }
    Ok(Some(KeyHolder {
        id: key.id,
        name: key.name,
        role: Role::from_stored(&key.role),
        project: ProjectId(key.project_id),
        slug: key.slug,
        default_channel: DefaultChannel::new(key.treat_default_channel_as),
    }))
}

/// The project of that slug and what the user may do there, if a member.
pub(crate) async fn membership(
    pool: &PgPool,
    user: i64,
    slug: &str,
) -> Result<Option<Access>, sqlx::Error> {
    let row: Option<(i64, String, Option<String>)> = sqlx::query_as(
        "select p.id, m.role, p.treat_default_channel_as
         from memberships m join projects p on p.id = m.project_id
         where m.user_id = $1 and p.slug = $2",
    )
    .bind(user)
    .bind(slug)
    .fetch_optional(pool)
    .await?;
    Ok(row.map(|(project, role, treated_as)| Access {
        project: ProjectId(project),
        role: Role::from_stored(&role),
        default_channel: DefaultChannel::new(treated_as),
    }))
}

/// Makes the user a member.
pub(crate) async fn add_member(
    connection: &mut PgConnection,
    project: i64,
    user: i64,
    role: Role,
    at: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "insert into memberships (project_id, user_id, role, created_at) values ($1, $2, $3, $4)",
    )
    .bind(project)
    .bind(user)
    .bind(role.as_str())
    .bind(at)
    .execute(connection)
    .await?;
    Ok(())
}

pub(super) async fn user_count(connection: &mut PgConnection) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("select count(*) from users")
        .fetch_one(connection)
        .await
}

/// An account that may log in, and the hash of its password.
pub(super) async fn login(
    pool: &PgPool,
    email: &str,
) -> Result<Option<(SessionUser, String)>, sqlx::Error> {
    let row: Option<(i64, String, String, String, String)> = sqlx::query_as(
        "select id, name, email, role, password_hash from users
         where email = $1 and is_active and password_hash is not null",
    )
    .bind(email)
    .fetch_optional(pool)
    .await?;
    Ok(row.map(|(id, name, email, role, hash)| {
        (
            SessionUser {
                id,
                name,
                email,
                role,
            },
            hash,
        )
    }))
}

/// Makes an account with a password.
pub(super) async fn insert_user(
    connection: &mut PgConnection,
    email: &str,
    name: &str,
    password_hash: &str,
    at: DateTime<Utc>,
) -> Result<SessionUser, sqlx::Error> {
    sqlx::query_as(
        "insert into users (email, name, role, password_hash, created_at)
         values ($1, $2, 'admin', $3, $4)
         returning id, name, email, role",
    )
    .bind(email)
    .bind(name)
    .bind(password_hash)
    .bind(at)
    .fetch_one(connection)
    .await
}

/// Members, newest first.
pub(super) async fn members(pool: &PgPool, project: ProjectId) -> Result<Vec<Member>, sqlx::Error> {
    sqlx::query_as(
        "select u.id, u.email, u.name, m.role, u.is_active,
                u.password_hash is not null as has_password, u.created_at
         from memberships m join users u on u.id = m.user_id
         where m.project_id = $1
         order by u.created_at desc, u.id desc",
    )
    .bind(project.0)
    .fetch_all(pool)
    .await
}
