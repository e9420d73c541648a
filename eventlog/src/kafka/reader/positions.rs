//! Where each assigned partition is read next.

use std::collections::BTreeMap;

use crate::{LogError, Offset, Partition, ReadEvent};

#[derive(Clone, Copy, Debug)]
struct Position {
    /// The next offset to fetch.
    next: Offset,
    /// What the partition held when it was assigned.
    first: Offset,
    end: Offset,
}

/// How a position lies to what a partition holds.
#[derive(Debug)]
pub(crate) enum Misplaced {
    /// Within it, or at its end.
    Nowhere,
    /// Retention has overtaken it.
    Before(ReadEvent),
    /// The partition ends before it: acknowledged records are gone.
    Behind(LogError),
}

/// Judges a position by what the partition holds.
pub(crate) fn judge(partition: Partition, next: Offset, first: Offset, end: Offset) -> Misplaced {
    if next < first {
        return Misplaced::Before(ReadEvent::Gap {
            partition,
            from: next,
            to: first,
        });
    }
    if next > end {
        let message = format!(
            "the position {next} in partition {partition} lies behind its end at {end}: acknowledged records are gone"
        );
        return Misplaced::Behind(LogError::Fatal(message));
    }
    Misplaced::Nowhere
}

/// Positions of the assigned partitions.
#[derive(Debug, Default)]
pub(crate) struct Positions {
    of: BTreeMap<Partition, Position>,
}

impl Positions {
    /// A partition is this reader's, which holds `first..end`.
    pub(crate) fn assign(
        &mut self,
        partition: Partition,
        next: Offset,
        first: Offset,
        end: Offset,
    ) {
        self.of.insert(partition, Position { next, first, end });
    }

    /// Before the first fetch: moves positions to where there is something, and tells the gaps.
    pub(crate) fn begin(&mut self, partitions: &[Partition]) -> Result<Vec<ReadEvent>, LogError> {
        let mut gaps = Vec::new();
        for partition in partitions {
            let Some(position) = self.of.get_mut(partition) else {
                continue;
            };
            match judge(*partition, position.next, position.first, position.end) {
                Misplaced::Nowhere => {}
                Misplaced::Before(gap) => {
                    position.next = position.first;
                    gaps.push(gap);
                }
                Misplaced::Behind(failure) => return Err(failure),
            }
        }
        Ok(gaps)
    }

    pub(crate) fn forget(&mut self, partitions: &[Partition]) {
        for partition in partitions {
            self.of.remove(partition);
        }
    }

    pub(crate) fn partitions(&self) -> Vec<Partition> {
        self.of.keys().copied().collect()
    }

    /// The next offset to fetch; 0 of what is not assigned.
    pub(crate) fn next(&self, partition: Partition) -> Offset {
        self.of.get(&partition).map_or(0, |position| position.next)
    }

    pub(crate) fn seek(&mut self, partition: Partition, at: Offset) {
        if let Some(position) = self.of.get_mut(&partition) {
            position.next = at;
        }
    }

    /// Whether a fetched record is wanted: assigned, and not from before a seek.
    pub(crate) fn take(&mut self, partition: Partition, offset: Offset) -> bool {
        match self.of.get_mut(&partition) {
            Some(position) if offset >= position.next => {
                position.next = offset + 1;
                true
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_that_retention_passed_is_a_gap() {
        let mut positions = Positions::default();
        positions.assign(3, 5, 9, 20);
        let gaps = positions.begin(&[3]).unwrap();
        assert!(matches!(
            gaps[..],
            [ReadEvent::Gap {
                partition: 3,
                from: 5,
                to: 9
            }]
        ));
        assert_eq!(positions.next(3), 9);
    }

    #[test]
    fn a_position_behind_the_end_is_a_failure_and_at_the_end_is_none() {
        let mut positions = Positions::default();
        positions.assign(0, 20, 9, 20);
        assert!(positions.begin(&[0]).unwrap().is_empty());
        positions.assign(0, 21, 9, 20);
        assert!(matches!(positions.begin(&[0]), Err(LogError::Fatal(_))));
    }

    #[test]
    fn records_from_before_a_seek_or_of_others_are_dropped() {
        let mut positions = Positions::default();
        positions.assign(0, 4, 0, 20);
        assert!(positions.take(0, 4));
        assert!(!positions.take(0, 4), "again");
        assert!(!positions.take(1, 4), "not ours");
        positions.seek(0, 2);
        assert!(positions.take(0, 2));
        assert!(positions.take(0, 7), "offsets may have holes");
        positions.forget(&[0]);
        assert!(!positions.take(0, 8));
    }
}
