use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde_json::json;
use sluice_schema::id::ProjectId;

use super::model::{CreateProject, Project, UpdateProject};
use super::{slug, store};
use crate::ApiState;
use crate::audit::Action;
use crate::auth;
use crate::auth::credential::SessionUser;
use crate::change::Change;
use crate::error::{ApiError, ApiResult};
use crate::extract::{JsonBody, Path};
use crate::role::Role;
use crate::scope::{Caller, ProjectScope, Session};
use crate::text;

/// The caller's projects, oldest first; of a key, its only one.
#[utoipa::path(get, path = "/projects", tag = "projects", security(("bearer" = [])),
    responses((status = 200, body = Vec<Project>),
              (status = 403, description = "Not for publishable keys")))]
pub(super) async fn list(
    State(state): State<ApiState>,
    Caller(caller): Caller,
) -> ApiResult<Json<Vec<Project>>> {
    Ok(Json(store::list(&state.postgres, &caller).await?))
}

/// Makes a project with branch `main` and channel `production` on it; the
/// caller is its admin.
#[utoipa::path(post, path = "/projects", tag = "projects", security(("bearer" = [])),
    request_body = CreateProject,
    responses((status = 201, body = Project), (status = 403, description = "Not for API keys"),
              (status = 409, description = "The slug is taken")))]
pub(super) async fn create(
    State(state): State<ApiState>,
    Session(user): Session,
    JsonBody(body): JsonBody<CreateProject>,
) -> ApiResult<(StatusCode, Json<Project>)> {
    let name = text::required("name", &body.name, text::NAME_CHARS)?;
    let slug = slug::parse(&body.slug)?;
    let at = state.clock.now();
    let mut transaction = state.postgres.begin().await?;
    let project = store::insert(&mut transaction, &name, &slug, at).await?;
    store::furnish(&mut transaction, project.id, user.id, at).await?;
    let scope = ProjectId(project.id);
    let mut change = Change::resume(transaction, scope, user.actor(), at);
    let details = json!({ "name": project.name, "slug": project.slug });
    change
        .audit(Action::PROJECT_CREATED, project.id, details)
        .await?;
    change.commit().await?;
    Ok((StatusCode::CREATED, Json(project)))
}

/// Changes how the project is looked at. Goes by the caller's role in that
/// project; `X-Project` plays no part.
///
/// With `treatDefaultChannelAs`, health, performance, events and evaluations
/// count and show the channel `default` as that channel, also where a view is
/// asked for `default`. Anomalies, downloads and rollouts keep channels as they
/// are.
#[utoipa::path(patch, path = "/projects/{slug}", tag = "projects", security(("bearer" = [])),
    params(("slug" = String, Path)), request_body = UpdateProject,
    responses((status = 200, body = Project),
              (status = 403, description = "Not for API keys, nor below admin"),
              (status = 404, description = "No such project of the caller's")))]
pub(super) async fn update(
    State(state): State<ApiState>,
    Session(user): Session,
    Path(slug): Path<String>,
    JsonBody(body): JsonBody<UpdateProject>,
) -> ApiResult<Json<Project>> {
    let scope = administered(&state, &user, &slug).await?;
    let to = body.default_channel()?;
    let mut change = Change::begin(&state, &scope).await?;
    let project = store::lock(&mut change).await?;
    let mut project = project.ok_or_else(|| ApiError::not_found("project"))?;
    if let Some(to) = to.filter(|to| *to != project.treat_default_channel_as) {
        project.treat_default_channel_as = to;
        store::update(&mut change, &project).await?;
        change
            .audit(Action::PROJECT_UPDATED, project.id, project.settings())
            .await?;
    }
    change.commit().await?;
    Ok(Json(project))
}

/// A project as one of its admins may act in it.
async fn administered(state: &ApiState, user: &SessionUser, slug: &str) -> ApiResult<ProjectScope> {
    let access = auth::store::membership(&state.postgres, user.id, slug).await?;
    let access = access.ok_or_else(|| ApiError::not_found("project"))?;
    if access.role < Role::Admin {
        let message = "only an admin of the project may change or delete it";
        return Err(ApiError::forbidden(message));
    }
    Ok(ProjectScope::new(access, user.actor()))
}

/// Deletes a project with all it owns. Goes by the caller's role in that
/// project; `X-Project` plays no part.
#[utoipa::path(delete, path = "/projects/{slug}", tag = "projects", security(("bearer" = [])),
    params(("slug" = String, Path)),
    responses((status = 204), (status = 403, description = "Not for API keys, nor below admin"),
              (status = 404, description = "No such project of the caller's"),
              (status = 409, description = "The caller's last project")))]
pub(super) async fn delete(
    State(state): State<ApiState>,
    Session(user): Session,
    Path(slug): Path<String>,
) -> ApiResult<StatusCode> {
    let scope = administered(&state, &user, &slug).await?;
    let project = scope.project;
    let mut change = Change::begin(&state, &scope).await?;
    if store::is_last_of(change.connection(), user.id).await? {
        return Err(ApiError::conflict("your last project cannot be deleted"));
    }
    let name = store::delete(change.connection(), project).await?;
    let name = name.ok_or_else(|| ApiError::not_found("project"))?;
    let details = json!({ "name": name, "slug": slug });
    change
        .audit(Action::PROJECT_DELETED, project.0, details)
        .await?;
    change.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}
