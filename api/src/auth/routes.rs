use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::request::Parts;

use super::model::{Login, LoginResponse, Member, SetupStatus, UserInfo};
use super::{password, store, token};
use crate::ApiState;
use crate::error::{ApiError, ApiResult};
use crate::extract::JsonBody;
use crate::network::ClientAddress;
use crate::scope::{Caller, Session, Viewer, presented_token, project_header};
use crate::text;

/// Whether anybody has an account yet.
#[utoipa::path(get, path = "/auth/setup-status", tag = "accounts", security(()),
    responses((status = 200, body = SetupStatus)))]
pub(super) async fn setup_status(State(state): State<ApiState>) -> ApiResult<Json<SetupStatus>> {
    let mut connection = state.postgres.acquire().await?;
    Ok(Json(SetupStatus::of(
        store::user_count(&mut connection).await?,
    )))
}

/// Starts a session of 30 days.
///
/// One answer for every failure. After 10 failures of an e-mail address or 100
/// of a network address within 15 minutes: 429.
#[utoipa::path(post, path = "/auth/login", tag = "accounts", security(()), request_body = Login,
    responses((status = 200, body = LoginResponse),
              (status = 401, description = "Wrong address or password, or no such active account"),
              (status = 429, description = "Too many failures")))]
pub(super) async fn login(
    State(state): State<ApiState>,
    ClientAddress(address): ClientAddress,
    JsonBody(body): JsonBody<Login>,
) -> ApiResult<Json<LoginResponse>> {
    let (email, now) = (text::normalise_email(&body.email), state.clock.now());
    state.logins.begin(&email, address, now)?;
    let (user, hash) = store::login(&state.postgres, &email).await?.unzip();
    let verified = password::verify(body.password, hash).await?;
    let user = user.filter(|_| verified);
    let user = user.ok_or_else(|| ApiError::unauthorized("wrong e-mail address or password"))?;
    state.logins.forgive(&email, address);
    let mut connection = state.postgres.acquire().await?;
    let token = store::open_session(&mut connection, user.id, now).await?;
    Ok(Json(LoginResponse {
        token,
        user: UserInfo::of(user, None),
    }))
}

/// Ends the session of the presented token; a key stays as it is.
#[utoipa::path(post, path = "/auth/logout", tag = "accounts", security(("bearer" = [])),
    responses((status = 204)))]
pub(super) async fn logout(
    State(state): State<ApiState>,
    _: Caller,
    parts: Parts,
) -> ApiResult<StatusCode> {
    if let Some(token) = presented_token(&parts) {
        store::close_session(&state.postgres, &token::hash(token)).await?;
    }
    Ok(StatusCode::NO_CONTENT)
}

/// The account of the session.
#[utoipa::path(get, path = "/auth/me", tag = "accounts", security(("bearer" = [])),
    params(("X-Project" = Option<String>, Header, description = "For `projectRole`")),
    responses((status = 200, body = UserInfo), (status = 403, description = "Not for API keys")))]
pub(super) async fn me(
    State(state): State<ApiState>,
    Session(user): Session,
    parts: Parts,
) -> ApiResult<Json<UserInfo>> {
    let membership = match project_header(&parts) {
        Some(slug) => store::membership(&state.postgres, user.id, slug).await?,
        None => None,
    };
    Ok(Json(UserInfo::of(
        user,
        membership.map(|access| access.role),
    )))
}

/// The members of the project, newest first.
#[utoipa::path(get, path = "/auth/users", tag = "accounts", security(("bearer" = ["viewer"])),
    responses((status = 200, body = Vec<Member>)))]
pub(super) async fn users(
    State(state): State<ApiState>,
    Viewer(scope): Viewer,
) -> ApiResult<Json<Vec<Member>>> {
    Ok(Json(store::members(&state.postgres, scope.project).await?))
}
