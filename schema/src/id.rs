//! Identifiers that cross room boundaries.

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A project's internal identifier: the `id` column of `projects`, a positive
/// 64-bit integer. Its UUID and slug are only handles to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ProjectId(pub i64);

impl fmt::Display for ProjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Identity of a frame, given once when it is cut and kept through spool and
/// replay: a UUID v7, so that ids sort by the time of the cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FrameId(pub Uuid);

impl FrameId {
    /// A fresh id, stamped with the present time.
    pub fn new() -> Self {
        Self(Uuid::now_v7())
    }
}

impl Default for FrameId {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for FrameId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
