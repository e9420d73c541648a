use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::credential::SessionUser;
use crate::role::Role;

/// Whether anybody has an account yet.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SetupStatus {
    /// There are no users.
    needs_setup: bool,
    user_count: i64,
}

impl SetupStatus {
    pub(super) fn of(user_count: i64) -> Self {
        Self {
            needs_setup: user_count == 0,
            user_count,
        }
    }
}

#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct Login {
    pub(super) email: String,
    pub(super) password: String,
}

/// An account as its owner sees it.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct UserInfo {
    pub(super) id: i64,
    pub(super) email: String,
    pub(super) name: String,
    /// A label; authorizes nothing.
    pub(super) role: String,
    /// Role in the project of `X-Project`, if one was named.
    pub(super) project_role: Option<Role>,
}

impl UserInfo {
    pub(super) fn of(user: SessionUser, project_role: Option<Role>) -> Self {
        let SessionUser {
            id,
            name,
            email,
            role,
        } = user;
        Self {
            id,
            email,
            name,
            role,
            project_role,
        }
    }
}

/// A new session.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct LoginResponse {
    /// Shown this once.
    pub(super) token: String,
    pub(super) user: UserInfo,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Registration {
    pub(super) email: String,
    pub(super) name: String,
    /// At least 8 characters.
    pub(super) password: String,
    /// `<name>'s Project` if absent.
    pub(super) project_name: Option<String>,
    /// Derived from `name` if absent.
    pub(super) project_slug: Option<String>,
}

/// A member of the project.
#[derive(Debug, Serialize, ToSchema, sqlx::FromRow)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Member {
    id: i64,
    email: String,
    name: String,
    /// Role in the project.
    role: String,
    is_active: bool,
    /// False: the invite is pending.
    has_password: bool,
    created_at: DateTime<Utc>,
}

#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct Invite {
    pub(super) email: String,
    pub(super) name: String,
    /// `editor` if absent.
    #[schema(value_type = Option<String>, example = "editor")]
    pub(super) role: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Invited {
    pub(super) id: i64,
    pub(super) email: String,
    /// Empty if the account is active already, and is now a member.
    pub(super) invite_token: String,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct AcceptInvite {
    pub(super) invite_token: String,
    /// At least 8 characters.
    pub(super) password: String,
}
