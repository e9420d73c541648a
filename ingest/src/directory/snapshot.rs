//! What the directory knows at one moment. Immutable.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use sluice_schema::id::ProjectId;
use uuid::Uuid;

use super::handle;

/// SHA-256 of a whole API key or session token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct KeyHash(pub(super) [u8; 32]);

impl KeyHash {
    /// From lower-case hex, as Postgres has it.
    fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).ok()?;
        Some(Self(bytes))
    }

    pub(super) fn to_hex(self) -> String {
        hex::encode(self.0)
    }
}

/// A project as Postgres has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ProjectRow {
    pub(super) id: i64,
    pub(super) uuid: Uuid,
    pub(super) slug: String,
}

/// An active API key as Postgres has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct KeyRow {
    pub(super) project: i64,
    pub(super) hash: String,
}

/// Everything that a snapshot is made of, and what is kept on disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Rows {
    pub(super) projects: Vec<ProjectRow>,
    pub(super) keys: Vec<KeyRow>,
}

/// Answers from memory.
#[derive(Debug, Default)]
pub(super) struct Snapshot {
    by_slug: HashMap<Box<str>, ProjectId>,
    by_uuid: HashMap<Uuid, ProjectId>,
    keys: HashMap<KeyHash, ProjectId>,
}

impl Snapshot {
    pub(super) fn of(rows: &Rows) -> Self {
        let projects = || rows.projects.iter();
        Self {
            by_slug: projects()
                .map(|p| (p.slug.as_str().into(), ProjectId(p.id)))
                .collect(),
            by_uuid: projects().map(|p| (p.uuid, ProjectId(p.id))).collect(),
            keys: rows
                .keys
                .iter()
                .filter_map(|key| Some((KeyHash::parse(&key.hash)?, ProjectId(key.project))))
                .collect(),
        }
    }

    /// By slug, else by UUID in any case: a slug may look like another project's UUID.
    pub(super) fn project(&self, handle: &str) -> Option<ProjectId> {
        let by_slug = self.by_slug.get(handle).copied();
        by_slug.or_else(|| self.by_uuid.get(&handle::uuid(handle)?).copied())
    }

    pub(super) fn key(&self, hash: &KeyHash) -> Option<ProjectId> {
        self.keys.get(hash).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_project_answers_to_its_slug_and_its_uuid() {
        let uuid = Uuid::from_u128(0xabc);
        let rows = Rows {
            projects: vec![ProjectRow {
                id: 7,
                uuid,
                slug: "acme".to_owned(),
            }],
            keys: vec![
                KeyRow {
                    project: 7,
                    hash: "ab".repeat(32),
                },
                KeyRow {
                    project: 7,
                    hash: "no hash".to_owned(),
                },
            ],
        };
        let snapshot = Snapshot::of(&rows);
        let id = Some(ProjectId(7));
        assert_eq!(snapshot.project("acme"), id);
        assert_eq!(snapshot.project(&uuid.to_string().to_uppercase()), id);
        assert_eq!(snapshot.project("other"), None);
        assert_eq!(snapshot.key(&KeyHash([0xab; 32])), id);
        assert_eq!(snapshot.key(&KeyHash([0; 32])), None);
    }
}
