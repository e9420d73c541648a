//! Invites: how others join a project.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;
use sluice_schema::id::ProjectId;
use sqlx::{PgConnection, PgPool, Postgres, Transaction};

use super::model::{AcceptInvite, Invite, Invited};
use super::{password, store, token};
use crate::ApiState;
use crate::audit::{self, Action};
use crate::change::Change;
use crate::error::{ApiError, ApiResult};
use crate::extract::JsonBody;
use crate::role::Role;
use crate::scope::{Actor, Admin};
use crate::text;

/// How long an invite token can be used.
const INVITE_LIFETIME: TimeDelta = TimeDelta::days(7);

/// Invites someone into the project.
///
/// An active account becomes a member at once and gets no token; an invited one
/// gets a new token in place of the old.
#[utoipa::path(post, path = "/auth/invite", tag = "accounts", security(("bearer" = ["admin"])),
    request_body = Invite,
    responses((status = 201, body = Invited), (status = 409, description = "Already a member, or invited to another project")))]
pub(super) async fn invite(
    State(state): State<ApiState>,
    Admin(scope): Admin,
    JsonBody(body): JsonBody<Invite>,
) -> ApiResult<(StatusCode, Json<Invited>)> {
    let email = text::email("email", &body.email)?;
    let name = text::required("name", &body.name, text::NAME_CHARS)?;
    let role = member_role(body.role.as_deref())?;
    let mut change = Change::begin(&state, &scope).await?;
    let at = change.at();
    let (id, is_pending) = find_or_insert(change.connection(), &email, &name, at).await?;
    if is_pending {
        leave_other_projects(&mut change, id).await?;
    }
    join(&mut change, id, role, is_pending).await?;
    let invite_token = if is_pending {
        issue_token(change.connection(), id, at).await?
    } else {
        String::new()
    };
    let details = json!({ "email": email, "role": role });
    change.audit(Action::USER_INVITED, id, details).await?;
    change.commit().await?;
    Ok((
        StatusCode::CREATED,
        Json(Invited {
            id,
            email,
            invite_token,
        }),
    ))
}

fn member_role(given: Option<&str>) -> ApiResult<Role> {
    match given.unwrap_or("editor") {
        role @ ("viewer" | "editor" | "admin") => Ok(Role::from_stored(role)),
        _ => Err(ApiError::bad_request(
            "role must be viewer, editor or admin",
        )),
    }
}

/// The account of that address, made if there is none; and whether it still
/// has to be activated.
async fn find_or_insert(
    connection: &mut PgConnection,
    email: &str,
    name: &str,
    at: DateTime<Utc>,
) -> ApiResult<(i64, bool)> {
    sqlx::query(
        "insert into users (email, name, created_at) values ($1, $2, $3)
         on conflict (email) do nothing",
    )
    .bind(email)
    .bind(name)
    .bind(at)
    .execute(&mut *connection)
    .await?;
    let user: (i64, bool, bool) = sqlx::query_as(
        "select id, password_hash is null, is_active from users where email = $1 for update",
    )
    .bind(email)
    .fetch_one(connection)
    .await?;
    match user {
        (id, is_pending, true) => Ok((id, is_pending)),
        (_, _, false) => Err(ApiError::conflict(
            "the account of this address is deactivated",
        )),
    }
}

/// Whoever has the token of a pending account sets its password and is its owner.
/// So it must not open a project that somebody else has invited it to: while that
/// invite is good, this is a conflict; then it is gone.
async fn leave_other_projects(change: &mut Change, user: i64) -> ApiResult<()> {
    let (project, at) = (change.project(), change.at());
    let is_expected_elsewhere: bool = sqlx::query_scalar(
        "select exists (select from memberships m join users u on u.id = m.user_id
                        where m.user_id = $1 and m.project_id <> $2 and u.invite_expires_at > $3)",
    )
    .bind(user)
    .bind(project)
    .bind(at)
    .fetch_one(change.connection())
    .await?;
    if is_expected_elsewhere {
        return Err(ApiError::conflict(
            "this address has an open invite to another project",
        ));
    }
    sqlx::query("delete from memberships where user_id = $1 and project_id <> $2")
        .bind(user)
        .bind(project)
        .execute(change.connection())
        .await?;
    Ok(())
}

/// Adds the membership. Inviting a pending member again may change the role.
async fn join(change: &mut Change, user: i64, role: Role, is_pending: bool) -> ApiResult<()> {
    let (project, at) = (change.project(), change.at());
    if is_pending {
        let delete = sqlx::query("delete from memberships where project_id = $1 and user_id = $2");
        delete
            .bind(project)
            .bind(user)
            .execute(change.connection())
            .await?;
    }
    Ok(store::add_member(change.connection(), project, user, role, at).await?)
}

async fn issue_token(
    connection: &mut PgConnection,
    user: i64,
    now: DateTime<Utc>,
) -> ApiResult<String> {
    let invite_token = token::random_token()?;
    sqlx::query("update users set invite_token_hash = $2, invite_expires_at = $3 where id = $1")
        .bind(user)
        .bind(token::hash(&invite_token))
        .bind(now + INVITE_LIFETIME)
        .execute(connection)
        .await?;
    Ok(invite_token)
}

/// Sets the password of an invited account. No session is issued.
#[utoipa::path(post, path = "/auth/accept-invite", tag = "accounts", security(()),
    request_body = AcceptInvite, responses((status = 204)))]
pub(super) async fn accept(
    State(state): State<ApiState>,
    JsonBody(body): JsonBody<AcceptInvite>,
) -> ApiResult<StatusCode> {
    password::check(&body.password)?;
    let (token_hash, now) = (token::hash(&body.invite_token), state.clock.now());
    // Hashing costs much: not for those who guess tokens.
    refuse_unknown(&state.postgres, &token_hash, now).await?;
    let password_hash = password::hash(body.password).await?;
    let mut transaction = state.postgres.begin().await?;
    let user = activate(&mut transaction, &token_hash, &password_hash, now).await?;
    record_activation(&mut transaction, &user, now).await?;
    transaction.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(sqlx::FromRow)]
struct Activated {
    id: i64,
    name: String,
    email: String,
}

const WRONG_TOKEN: &str = "inviteToken is unknown, used or expired";

async fn refuse_unknown(pool: &PgPool, token_hash: &str, now: DateTime<Utc>) -> ApiResult<()> {
    let found =
        sqlx::query("select from users where invite_token_hash = $1 and invite_expires_at > $2")
            .bind(token_hash)
            .bind(now)
            .fetch_optional(pool)
            .await?;
    found
        .map(drop)
        .ok_or_else(|| ApiError::bad_request(WRONG_TOKEN))
}

/// Burns the token and sets the password, if the token is still good.
async fn activate(
    transaction: &mut Transaction<'static, Postgres>,
    token_hash: &str,
    password_hash: &str,
    now: DateTime<Utc>,
) -> ApiResult<Activated> {
    let user = sqlx::query_as(
        "update users set password_hash = $2, invite_token_hash = null, invite_expires_at = null
         where invite_token_hash = $1 and invite_expires_at > $3 and is_active
         returning id, name, email",
    )
    .bind(token_hash)
    .bind(password_hash)
    .bind(now)
    .fetch_optional(&mut **transaction)
    .await?;
    user.ok_or_else(|| ApiError::bad_request(WRONG_TOKEN))
}

/// In the log of each project that the account belongs to.
async fn record_activation(
    connection: &mut PgConnection,
    user: &Activated,
    at: DateTime<Utc>,
) -> ApiResult<()> {
    let projects: Vec<i64> =
        sqlx::query_scalar("select project_id from memberships where user_id = $1 order by 1")
            .bind(user.id)
            .fetch_all(&mut *connection)
            .await?;
    let actor = Actor::User {
        id: user.id,
        name: user.name.clone(),
    };
    for project in projects {
        let entry = audit::store::NewEntry {
            project: ProjectId(project),
            action: Action::USER_ACTIVATED,
            entity_id: Some(user.id),
            details: json!({ "email": user.email }),
            actor: Some(&actor),
            at,
        };
        audit::store::insert(connection, entry).await?;
    }
    Ok(())
}
