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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: BatchLimits = BatchLimits {
        max_rows: 100,
        max_bytes: 1_000,
        interval: Duration::from_secs(1),
    };

    /// What a partition sees: records of so many rows, so many milliseconds apart.
    fn records() -> impl Strategy<Value = Vec<(usize, u64)>> {
        proptest::collection::vec((0_usize..150, 0_u64..800), 1..60)
    }

    /// Batches as (first, last, rows, moment), with inserts that take no time.
    fn cut(records: &[(usize, u64)], start: Instant) -> Vec<(u64, u64, usize, Instant)> {
        let mut batcher = Batcher::new(LIMITS);
        let mut batches = Vec::new();
        let mut now = start;
        let mut rows = 0;
        let mut take = |batcher: &mut Batcher, now, rows: &mut usize| {
            if let Some((first, last)) = batcher.take(now) {
                batches.push((first, last, std::mem::take(rows), now));
            }
        };
        for (offset, (events, pause_ms)) in (0_u64..).zip(records) {
            let until = now + Duration::from_millis(*pause_ms);
            if let Close::From(due) = batcher.close(now)
                && due <= until
            {
                take(&mut batcher, due.max(now), &mut rows);
            }
            now = until;
            if !batcher.admits(offset, *events) {
                assert_eq!(batcher.close(now), Close::Now);
                take(&mut batcher, now, &mut rows);
                assert!(
                    batcher.admits(offset, *events),
                    "an empty batch takes any record"
                );
            }
            rows += events;
            batcher.add(offset, rows, rows);
        }
        take(&mut batcher, now, &mut rows);
        batches
    }

    proptest! {
        #[test]
        fn each_record_is_in_one_batch(records in records()) {
            let batches = cut(&records, Instant::now());
            let mut next = 0;
            for (first, last, rows, _) in &batches {
                prop_assert_eq!(*first, next);
                prop_assert!(last >= first);
                prop_assert!(*rows <= LIMITS.max_rows || first == last);
                next = last + 1;
            }
            prop_assert_eq!(next, records.len() as u64);
        }

        #[test]
        fn low_traffic_makes_one_batch_an_interval(pauses in proptest::collection::vec(0_u64..800, 2..60)) {
            let records: Vec<_> = pauses.into_iter().map(|pause| (1, pause)).collect();
            let batches = cut(&records, Instant::now());
            let timed = &batches[..batches.len() - 1];
            for pair in timed.windows(2) {
                prop_assert!(pair[1].3 - pair[0].3 >= LIMITS.interval);
            }
        }

        #[test]
        fn a_rebuilt_batch_has_its_old_end(records in records(), last in 0_u64..60) {
            let mut batcher = Batcher::new(LIMITS);
            batcher.rebuild_until(last);
            for (offset, (events, _)) in (0_u64..).zip(&records) {
                if !batcher.admits(offset, *events) {
                    break;
                }
                batcher.add(offset, *events, *events);
            }
            let complete = records.len() as u64 > last;
            prop_assert_eq!(batcher.close(Instant::now()) == Close::Now, complete);
            let end = last.min(records.len() as u64 - 1);
            prop_assert_eq!(batcher.take(Instant::now()), Some((0, end)));
        }
    }

    #[test]
    fn the_first_record_after_an_idle_spell_waits_for_nothing() {
        let mut batcher = Batcher::new(LIMITS);
        let now = Instant::now();
        assert_eq!(batcher.close(now), Close::Never);
        batcher.add(0, 1, 1);
        assert_eq!(batcher.close(now), Close::From(now));
        batcher.take(now);
        batcher.add(1, 1, 1);
        let Close::From(due) = batcher.close(now) else {
            panic!("a batch is open");
        };
        assert_eq!(due, now + LIMITS.interval);
    }
}
