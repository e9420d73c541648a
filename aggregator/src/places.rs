//! The columns that every raw table has: whose a row is, when it came, and where
//! it stands in the log.
//!
//! What always holds: they are a function of the row's place in the log alone,
//! so that a range that is read again becomes the same rows.

use sluice_schema::id::{FrameId, ProjectId};

use crate::batch::BatchId;
use crate::native::BlockEncoder;

/// How many columns these are.
pub const COLUMNS: usize = 9;

/// One request's place in the log and its project.
#[derive(Clone, Copy, Debug)]
pub struct Origin {
    /// The frame that it came in.
    pub frame: FrameId,
    /// Offset of that frame.
    pub offset: u64,
    /// Index in the frame of the request's first event.
    pub first_index: u16,
    /// Whose it is.
    pub project: ProjectId,
    /// When the edge accepted it, in microseconds since 1970.
    pub received_at_us: i64,
}

/// The shared columns of a batch.
#[derive(Default)]
pub struct Places {
    received_at_us: Vec<i64>,
    project_id: Vec<u64>,
    frame_id: Vec<u128>,
    offset: Vec<u64>,
    index: Vec<u16>,
}

impl Places {
    /// Number of rows.
    pub fn len(&self) -> usize {
        self.received_at_us.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.received_at_us.is_empty()
    }

    /// Project and receipt, in microseconds since 1970, of a row.
    pub fn of(&self, row: usize) -> (u64, i64) {
        (self.project_id[row], self.received_at_us[row])
    }

    /// Earliest and latest receipt, in microseconds since 1970.
    pub fn received_us(&self) -> Option<(i64, i64)> {
        let first = *self.received_at_us.first()?;
        let widen = |(low, high): (i64, i64), at: &i64| (low.min(*at), high.max(*at));
        Some(self.received_at_us.iter().fold((first, first), widen))
    }

    /// Number of rows that were received before a moment, in microseconds since 1970.
    pub fn received_before(&self, at_us: i64) -> usize {
        let before = self.received_at_us.iter().filter(|at| **at < at_us);
        before.count()
    }

    /// Appends the place of a row with this index in its frame.
    pub fn push(&mut self, origin: &Origin, index: u16) {
        self.received_at_us.push(origin.received_at_us);
        self.project_id.push(origin.project.0 as u64);
        self.frame_id.push(origin.frame.0.as_u128());
        self.offset.push(origin.offset);
        self.index.push(index);
    }

    /// Writes the columns into the block of the batch `id`.
    pub fn encode(&self, block: &mut BlockEncoder, id: &BatchId) {
        block.fixed("received_at", "DateTime64(6, 'UTC')", &self.received_at_us);
        block.fixed("project_id", "UInt64", &self.project_id);
        block.uuids("frame_id", &self.frame_id);
        block.constant_text("src_topic", &id.source);
        block.constant("src_partition", "UInt16", id.partition as u16);
        block.fixed("src_offset", "UInt64", &self.offset);
        block.fixed("src_index", "UInt16", &self.index);
        block.constant("batch_first", "UInt64", id.first);
        block.constant("batch_last", "UInt64", id.last);
    }

    /// Drops all rows and keeps the memory.
    pub fn clear(&mut self) {
        self.received_at_us.clear();
        self.project_id.clear();
        self.frame_id.clear();
        self.offset.clear();
        self.index.clear();
    }
}
