//! Registration: an account with its first project, in one transaction.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use serde_json::json;
use sluice_schema::id::ProjectId;
use sqlx::PgConnection;

use super::credential::SessionUser;
use super::model::{LoginResponse, Registration, UserInfo};
use super::{password, store};
use crate::ApiState;
use crate::audit::Action;
use crate::change::Change;
use crate::error::{ApiError, ApiResult};
use crate::extract::JsonBody;
use crate::projects;
use crate::projects::slug::{self, Slug};
use crate::role::Role;
use crate::text;

/// Makes an account, its first project, and a session.
#[utoipa::path(post, path = "/auth/register", tag = "accounts", security(()),
    request_body = Registration,
    responses((status = 201, body = LoginResponse),
              (status = 403, description = "The operator has closed registration"),
              (status = 409, description = "The address or the slug is taken")))]
pub(super) async fn register(
    State(state): State<ApiState>,
    JsonBody(body): JsonBody<Registration>,
) -> ApiResult<(StatusCode, Json<LoginResponse>)> {
    let request = Request::check(body)?;
    let password_hash = password::hash(request.password.clone()).await?;
    let at = state.clock.now();
    let mut transaction = state.postgres.begin().await?;
    if state.policy.close_registration {
        refuse_if_set_up(&mut transaction).await?;
    }
    let (email, name) = (&request.email, &request.name);
    let user = store::insert_user(&mut transaction, email, name, &password_hash, at).await?;
    let project = request
        .insert_project(&mut transaction, user.id, at)
        .await?;
    let scope = ProjectId(project.id);
    let mut change = Change::resume(transaction, scope, user.actor(), at);
    let details = json!({ "name": project.name, "slug": project.slug });
    change
        .audit(Action::PROJECT_CREATED, project.id, details)
        .await?;
    let token = store::open_session(change.connection(), user.id, at).await?;
    change.commit().await?;
    Ok((StatusCode::CREATED, Json(response(token, user))))
}

fn response(token: String, user: SessionUser) -> LoginResponse {
    LoginResponse {
        token,
        user: UserInfo::of(user, Some(Role::Admin)),
    }
}

/// The lock lets one first registration through, not two at once.
async fn refuse_if_set_up(connection: &mut PgConnection) -> ApiResult<()> {
    sqlx::query("lock table users in share row exclusive mode")
        .execute(&mut *connection)
        .await?;
    if store::user_count(connection).await? > 0 {
        return Err(ApiError::forbidden(
            "registration is closed; ask for an invite",
        ));
    }
    Ok(())
}

/// A registration that passed validation.
struct Request {
    email: String,
    name: String,
    password: String,
    project_name: String,
    slug: Option<Slug>,
}

impl Request {
    fn check(body: Registration) -> ApiResult<Self> {
        let email = text::email("email", &body.email)?;
        let name = text::required("name", &body.name, text::NAME_CHARS)?;
        password::check(&body.password)?;
        let project_name = text::optional("projectName", body.project_name, text::NAME_CHARS)?
            .unwrap_or_else(|| format!("{name}'s Project"));
        let slug = body.project_slug.filter(|slug| !slug.trim().is_empty());
        let slug = slug.as_deref().map(slug::of_wish).transpose()?;
        Ok(Self {
            email,
            name,
            password: body.password,
            project_name,
            slug,
        })
    }

    /// With the wanted slug, or with the first free one that follows from the name.
    async fn insert_project(
        &self,
        connection: &mut PgConnection,
        user: i64,
        at: DateTime<Utc>,
    ) -> ApiResult<projects::Project> {
        let name = &self.project_name;
        let project = if let Some(slug) = &self.slug {
            projects::store::insert(connection, name, slug, at).await?
        } else {
            let base = slug::of_name(&self.name).unwrap_or_else(|| slug::of_user(user));
            projects::store::insert_with_free_slug(connection, name, &base, at).await?
        };
        projects::store::furnish(connection, project.id, user, at).await?;
        Ok(project)
    }
}
