//! How far this process is: for readers of the store, for folds, for tests.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use sluice_eventlog::Partition;
use tokio::sync::watch;

/// Requests are stamped a moment before they are in the log: a partition
/// without backlog is complete up to this long ago.
const IN_FLIGHT_US: i64 = 2_000_000;

/// A summary that can be waited on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Inserts that were acknowledged.
    pub inserts: u64,
    /// Rows in them.
    pub rows: u64,
    /// The newest moment at which no partition of this process had anything
    /// left to read or store, in microseconds since 1970; 0 if there was none.
    pub caught_up_us: i64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Mark {
    /// Receipts up to here are aggregated.
    aggregated_us: i64,
    caught_up_us: i64,
}

/// What the workers report to.
pub struct ProgressBoard {
    marks: Mutex<BTreeMap<Partition, Mark>>,
    summary: watch::Sender<Progress>,
}

impl Default for ProgressBoard {
    fn default() -> Self {
        Self {
            marks: Mutex::default(),
            summary: watch::Sender::new(Progress::default()),
        }
    }
}

impl ProgressBoard {
    /// Follows the summary.
    pub fn subscribe(&self) -> watch::Receiver<Progress> {
        self.summary.subscribe()
    }

    /// Receipts up to which each partition is aggregated, in microseconds since 1970.
    pub fn watermarks(&self) -> Vec<(Partition, i64)> {
        let marks = self.lock();
        let known = marks.iter().filter(|(_, mark)| mark.aggregated_us > 0);
        known.map(|(p, mark)| (*p, mark.aggregated_us)).collect()
    }

    /// Whether the partition is this process's.
    pub(crate) fn owns(&self, partition: Partition) -> bool {
        self.lock().contains_key(&partition)
    }

    /// The partition is this process's from now on.
    pub(crate) fn assigned(&self, partition: Partition) {
        self.lock().insert(partition, Mark::default());
    }

    /// The partition is this process's no longer.
    pub(crate) fn revoked(&self, partition: Partition) {
        self.lock().remove(&partition);
    }

    /// A batch whose newest receipt is `received_us` is stored.
    pub(crate) fn stored(&self, partition: Partition, rows: u64, received_us: i64) {
        let mut marks = self.lock();
        let mark = marks.entry(partition).or_default();
        mark.aggregated_us = mark.aggregated_us.max(received_us);
        self.summary.send_modify(|summary| {
            summary.inserts += 1;
            summary.rows += rows;
        });
    }

    /// At `now_us` the partition had nothing left to read or store.
    pub(crate) fn caught_up(&self, partition: Partition, now_us: i64) {
        let mut marks = self.lock();
        let mark = marks.entry(partition).or_default();
        mark.aggregated_us = mark.aggregated_us.max(now_us - IN_FLIGHT_US);
        mark.caught_up_us = mark.caught_up_us.max(now_us);
        let all = marks.values().map(|mark| mark.caught_up_us).min();
        self.summary
            .send_modify(|summary| summary.caught_up_us = all.unwrap_or_default());
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Partition, Mark>> {
        // Each statement leaves the map whole.
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watermark_never_goes_back() {
        let board = ProgressBoard::default();
        board.assigned(0);
        assert_eq!(board.watermarks(), []);
        board.stored(0, 1, 9_000_000);
        board.stored(0, 1, 8_000_000);
        board.caught_up(0, 10_000_000);
        assert_eq!(board.watermarks(), [(0, 9_000_000)]);
        board.caught_up(0, 20_000_000);
        assert_eq!(board.watermarks(), [(0, 18_000_000)]);
    }

    #[test]
    fn all_partitions_must_have_caught_up() {
        let board = ProgressBoard::default();
        board.assigned(0);
        board.assigned(1);
        assert!(board.owns(1) && !board.owns(2));
        board.caught_up(0, 5);
        assert_eq!(board.subscribe().borrow().caught_up_us, 0);
        board.caught_up(1, 7);
        assert_eq!(board.subscribe().borrow().caught_up_us, 5);
        board.revoked(0);
        assert!(!board.owns(0));
        board.caught_up(1, 9);
        assert_eq!(board.subscribe().borrow().caught_up_us, 9);
    }
}
