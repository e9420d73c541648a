//! Who asks, in which project, and what for.
//!
//! A handler that takes [`Viewer`], [`Editor`] or [`Admin`] has passed the
//! checks of management.md §2.3: credential, `X-Project`, membership, role.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use sluice_schema::id::ProjectId;

use crate::ApiState;
use crate::auth::credential::{self, Access, Credential, KeyHolder, SessionUser};
use crate::error::{ApiError, ApiResult};
use crate::insights::channels::DefaultChannel;
use crate::openapi::PROJECT_HEADER;
use crate::role::Role;

/// Who did something. Id and name are copied into the audit log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Actor {
    /// A person.
    User {
        /// Account id.
        id: i64,
        /// Display name.
        name: String,
    },
    /// A program.
    ApiKey {
        /// Key id.
        id: i64,
        /// Name of the key.
        name: String,
    },
}

impl Actor {
    /// As stored: `user` or `api_key`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::User { .. } => "user",
            Self::ApiKey { .. } => "api_key",
        }
    }

    /// Account or key id.
    pub fn id(&self) -> i64 {
        match self {
            Self::User { id, .. } | Self::ApiKey { id, .. } => *id,
        }
    }

    /// Display name.
    pub fn name(&self) -> &str {
        match self {
            Self::User { name, .. } | Self::ApiKey { name, .. } => name,
        }
    }
}

/// A project that the caller may act in. Stores take it, or the [`ProjectId`]
/// in it, so that no query goes unscoped.
#[derive(Clone, Debug)]
pub struct ProjectScope {
    /// The project of `X-Project`.
    pub project: ProjectId,
    /// What the caller may do there.
    pub role: Role,
    /// Who the caller is.
    pub actor: Actor,
    /// What views of the project treat the channel `default` as.
    pub(crate) default_channel: DefaultChannel,
}

impl ProjectScope {
    async fn of(parts: &Parts, state: &ApiState) -> ApiResult<Self> {
        let credential = Credential::of(parts, state).await?;
        let slug = project_header(parts)
            .ok_or_else(|| ApiError::bad_request("the header X-Project must name a project"))?;
        let access = credential.resolve(state, slug).await?;
        let access = access.ok_or_else(|| ApiError::not_found("project"))?;
        Ok(Self::new(access, credential.actor()))
    }

    /// Of somebody who may act there.
    pub(crate) fn new(access: Access, actor: Actor) -> Self {
        Self {
            project: access.project,
            role: access.role,
            actor,
            default_channel: access.default_channel,
        }
    }

    async fn with_role(parts: &Parts, state: &ApiState, least: Role) -> ApiResult<Self> {
        let scope = Self::of(parts, state).await?;
        if scope.role < least {
            let message = format!("this needs the role {} in the project", least.as_str());
            return Err(ApiError::forbidden(message));
        }
        Ok(scope)
    }
}

/// The slug in `X-Project`, unless absent or blank.
pub(crate) fn project_header(parts: &Parts) -> Option<&str> {
    let value = parts.headers.get(PROJECT_HEADER)?;
    // A slug is ASCII; other bytes name no project, and so never match one.
    let slug = value.to_str().unwrap_or("\u{fffd}").trim();
    (!slug.is_empty()).then_some(slug)
}

/// Auth code V: any member or key of the project, but no publishable key.
#[derive(Clone, Debug)]
pub struct Viewer(pub ProjectScope);

/// Auth code E: at least an editor of the project.
#[derive(Clone, Debug)]
pub struct Editor(pub ProjectScope);

/// Auth code A: an admin of the project.
#[derive(Clone, Debug)]
pub struct Admin(pub ProjectScope);

macro_rules! extract_scope {
    ($($extractor:ident),*) => {$(
        impl FromRequestParts<ApiState> for $extractor {
            type Rejection = ApiError;

            async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> ApiResult<Self> {
                ProjectScope::with_role(parts, state, Role::$extractor).await.map(Self)
            }
        }
    )*};
}
extract_scope!(Viewer, Editor, Admin);

/// Auth code S: a person with a session; an API key is refused with 403.
#[derive(Clone, Debug)]
pub struct Session(pub SessionUser);

impl FromRequestParts<ApiState> for Session {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> ApiResult<Self> {
        match Credential::of(parts, state).await? {
            Credential::Session(user) => Ok(Self(user)),
            Credential::Key(_) => Err(ApiError::forbidden("this needs a session, not an API key")),
        }
    }
}

/// Auth code B: a session or a key, no project.
#[derive(Clone, Debug)]
pub struct Caller(pub Credential);

impl FromRequestParts<ApiState> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> ApiResult<Self> {
        match Credential::of(parts, state).await? {
            Credential::Key(KeyHolder {
                role: Role::Publishable,
                ..
            }) => Err(ApiError::forbidden(
                "a publishable key may only call device routes",
            )),
            credential => Ok(Self(credential)),
        }
    }
}

/// The token of the request; for logging out.
pub(crate) fn presented_token(parts: &Parts) -> Option<&str> {
    credential::bearer_token(&parts.headers)
}
