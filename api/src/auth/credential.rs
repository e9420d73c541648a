//! From the `Authorization` header to whoever holds the token.

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use sluice_schema::id::ProjectId;

use super::{store, token};
use crate::ApiState;
use crate::error::{ApiError, ApiResult};
use crate::insights::channels::DefaultChannel;
use crate::role::Role;
use crate::scope::Actor;

/// A valid credential.
#[derive(Clone, Debug)]
pub enum Credential {
    /// A session of an active account.
    Session(SessionUser),
    /// An active API key.
    Key(KeyHolder),
}

/// The account behind a session.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct SessionUser {
    /// Account id.
    pub id: i64,
    /// Display name.
    pub name: String,
    /// Address, lower-cased.
    pub email: String,
    /// Instance-level label; authorizes nothing.
    pub role: String,
}

/// What an API key is for.
#[derive(Clone, Debug)]
pub struct KeyHolder {
    /// Key id.
    pub id: i64,
    /// Name of the key.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// Its only project.
    pub project: ProjectId,
    /// Slug of that project.
    pub slug: String,
    /// What views of that project treat the channel `default` as.
    pub(crate) default_channel: DefaultChannel,
}

/// A project, and what somebody may do there.
#[derive(Clone, Debug)]
pub(crate) struct Access {
    pub(crate) project: ProjectId,
    pub(crate) role: Role,
    /// What views of the project treat the channel `default` as.
    pub(crate) default_channel: DefaultChannel,
}

impl Credential {
    /// Reads the credential of a request; 401 without a valid one.
    pub(crate) async fn of(parts: &Parts, state: &ApiState) -> ApiResult<Self> {
        let token = bearer_token(&parts.headers)
            .ok_or_else(|| ApiError::unauthorized("Authorization must be Bearer <token>"))?;
        let hash = token::hash(token);
        if let Some(user) = store::session(&state.postgres, &hash, state.clock.now()).await? {
            return Ok(Self::Session(user));
        }
        let key = store::use_key(&state.postgres, &hash, state.clock.now()).await?;
        key.map(Self::Key)
            .ok_or_else(|| ApiError::unauthorized("invalid or expired credential"))
    }

    /// The project of that slug and what the caller may do in it; none if there
    /// is no such project or the caller has nothing to do with it.
    pub(crate) async fn resolve(&self, state: &ApiState, slug: &str) -> ApiResult<Option<Access>> {
        match self {
            Self::Session(user) => Ok(store::membership(&state.postgres, user.id, slug).await?),
            Self::Key(key) => Ok((key.slug == slug).then(|| key.access())),
        }
    }

    /// Who acts.
    pub(crate) fn actor(&self) -> Actor {
        match self {
            Self::Session(user) => user.actor(),
            Self::Key(key) => Actor::ApiKey {
                id: key.id,
                name: key.name.clone(),
            },
        }
    }
}

impl KeyHolder {
    /// What it may do in its project.
    fn access(&self) -> Access {
        Access {
            project: self.project,
            role: self.role,
            default_channel: self.default_channel.clone(),
        }
    }
}

impl SessionUser {
    /// This account as an actor.
    pub(crate) fn actor(&self) -> Actor {
        Actor::User {
            id: self.id,
            name: self.name.clone(),
        }
    }
}

/// The token of `Authorization: Bearer <token>`; the scheme in any case.
pub(crate) fn bearer_token(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers
        .get(AUTHORIZATION)?
        .to_str()
        .ok()?
        .trim()
        .split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token_of(header: &str) -> Option<String> {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, header.parse().unwrap());
        bearer_token(&headers).map(str::to_owned)
    }

    #[test]
    fn the_scheme_is_bearer_in_any_case() {
        assert_eq!(token_of("Bearer abc").as_deref(), Some("abc"));
        assert_eq!(token_of("bEARER   abc").as_deref(), Some("abc"));
        assert_eq!(token_of("Basic abc"), None);
        assert_eq!(token_of("Bearer "), None);
        assert_eq!(token_of("Bearer"), None);
    }
}
