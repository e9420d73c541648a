//! Roles in a project, ordered by what they may do (management.md §2.4).

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What a credential may do in a project. A higher role may do all that a lower
/// one may.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Device routes only: an API key that ships inside an app.
    Publishable,
    /// Reads.
    Viewer,
    /// Reads and writes.
    Editor,
    /// Also API keys, invites, storage clean-up and the project itself.
    Admin,
}

impl Role {
    /// The role that a stored text means; an unknown one is a viewer.
    pub fn from_stored(text: &str) -> Self {
        match text {
            "publishable" => Self::Publishable,
            "editor" => Self::Editor,
            "admin" => Self::Admin,
            _ => Self::Viewer,
        }
    }

    /// As stored and as shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Publishable => "publishable",
            Self::Viewer => "viewer",
            Self::Editor => "editor",
            Self::Admin => "admin",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Role::{self, Admin, Editor, Publishable, Viewer};

    #[test]
    fn roles_are_ordered_and_survive_storage() {
        assert!(Publishable < Viewer && Viewer < Editor && Editor < Admin);
        for role in [Publishable, Viewer, Editor, Admin] {
            assert_eq!(Role::from_stored(role.as_str()), role);
        }
        assert_eq!(Role::from_stored("owner"), Viewer);
    }
}
