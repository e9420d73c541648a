//! Where one batch ends and the next begins: a pure decision over offsets,
//! sizes and a clock.
//!
//! What always holds: each offset that is added lies in exactly one batch, in
//! order; a batch has at most `max_rows` rows and little more than `max_bytes`
//! bytes, unless it is a single record; while nothing is full, batches begin at
//! least `interval` apart, and the first record after an idle spell waits for
//! nothing; a batch that is rebuilt holds exactly the offsets it had.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sluice_eventlog::{Offset, Partition};

/// Names a batch for ever: what it holds, and so its deduplication token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchId {
    /// Topic and incarnation of the log.
    pub source: Arc<str>,
    /// Partition of the log.
    pub partition: Partition,
    /// Offset of its first record.
    pub first: Offset,
    /// Offset of its last record.
    pub last: Offset,
}

impl fmt::Display for BatchId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let prefix = token_prefix(&self.source, self.partition);
        write!(f, "{prefix}{}-{}", self.first, self.last)
    }
}

/// How the tokens of a partition's batches begin.
pub fn token_prefix(source: &str, partition: Partition) -> String {
    format!("{source}:{partition}:")
}

/// When a batch is closed.
#[derive(Clone, Copy, Debug)]
pub struct BatchLimits {
    /// Most rows: well below what the server would split.
    pub max_rows: usize,
    /// Most bytes of a block.
    pub max_bytes: usize,
    /// Least time between the beginnings of two inserts of a partition with little traffic.
    pub interval: Duration,
}

impl Default for BatchLimits {
    fn default() -> Self {
        Self {
            max_rows: 100_000,
            max_bytes: 64 * 1024 * 1024,
            interval: Duration::from_secs(1),
        }
    }
}

/// What to do with the open batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Close {
    /// It holds all that it may: close it as soon as there is a place for it.
    Now,
    /// Close it when nothing is in flight, not before this moment.
    From(Instant),
    /// There is nothing to close.
    Never,
}

/// Cuts one partition into batches.
#[derive(Debug)]
pub struct Batcher {
    limits: BatchLimits,
    range: Option<(Offset, Offset)>,
    rows: usize,
    bytes: usize,
    full: bool,
    rebuild: Option<Offset>,
    last_closed: Option<Instant>,
}

impl Batcher {
    /// Cuts freely.
    pub fn new(limits: BatchLimits) -> Self {
        Self {
            limits,
            range: None,
            rows: 0,
            bytes: 0,
            full: false,
            rebuild: None,
            last_closed: None,
        }
    }

    /// The next batch ends with `last`, whatever its size.
    pub fn rebuild_until(&mut self, last: Offset) {
        self.rebuild = Some(last);
    }

    /// Where a rebuilt batch ends.
    pub fn rebuilds(&self) -> Option<Offset> {
        self.rebuild
    }

    /// Forgets the open batch and that it was to be a rebuilt one.
    pub fn abandon(&mut self) {
        self.range = None;
        self.reset();
    }

    /// Whether the record at `offset` with up to `events` rows belongs to the
    /// open batch. If not, the batch is complete.
    pub fn admits(&mut self, offset: Offset, events: usize) -> bool {
        self.full = match self.rebuild {
            Some(last) => offset > last,
            None => {
                self.range.is_some()
                    && (self.rows + events > self.limits.max_rows
                        || self.bytes >= self.limits.max_bytes)
            }
        };
        !self.full
    }

    /// Adds the record at `offset`; the batch now has this many rows and bytes.
    pub fn add(&mut self, offset: Offset, rows: usize, bytes: usize) {
        let first = self.range.map_or(offset, |(first, _)| first);
        self.range = Some((first, offset));
        self.rows = rows;
        self.bytes = bytes;
        self.full |= self.rebuild == Some(offset);
    }

    /// First and last offset of the open batch.
    pub fn range(&self) -> Option<(Offset, Offset)> {
        self.range
    }

    /// What to do with the open batch.
    pub fn close(&self, now: Instant) -> Close {
        if self.full {
            return Close::Now;
        }
        match (self.range, self.rebuild, self.last_closed) {
            (None, _, _) | (_, Some(_), _) => Close::Never,
            (_, _, None) => Close::From(now),
            (_, _, Some(closed)) => Close::From(closed + self.limits.interval),
        }
    }

    /// Ends the open batch: its first and last offset, if it holds any record.
    pub fn take(&mut self, now: Instant) -> Option<(Offset, Offset)> {
        let range = self.range.take();
        self.reset();
        self.last_closed = Some(now);
        range
    }

    fn reset(&mut self) {
        self.rows = 0;
        self.bytes = 0;
        self.full = false;
        self.rebuild = None;
    }
}
