//! Reads durable records from any position.

use std::fs::File;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{Shared, segment};
use crate::{CommitError, LogError, LogReader, Offset, Partition, ReadEvent, Stored};

/// A reader of one group.
pub(crate) struct EmbeddedReader {
    shared: Arc<Shared>,
    group: String,
    at: Offset,
    announced: bool,
}

/// Where a record lies.
struct Place {
    offset: Offset,
    file: Arc<File>,
    position: u64,
    length: u64,
}

impl EmbeddedReader {
    pub(crate) fn new(shared: Arc<Shared>, group: &str) -> Self {
        let state = shared.lock();
        let at = state.positions.of(group).unwrap_or_else(|| state.first());
        drop(state);
        Self {
            shared,
            group: group.to_owned(),
            at,
            announced: false,
        }
    }

    /// The records from `at` on that fit `max_bytes`, at least one if there is any.
    fn places(&self, max_bytes: usize, max_wait: Duration) -> Vec<Place> {
        let deadline = Instant::now() + max_wait;
        let mut state = self.shared.lock();
        while state.next() <= self.at {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Vec::new();
            }
            let waited = self.shared.appended.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        let mut places = Vec::new();
        let mut bytes = 0;
        for segment in state.segments.iter().filter(|s| s.next() > self.at) {
            for offset in self.at.max(segment.first)..segment.next() {
                let Some((position, length)) = segment.locate(offset) else {
                    continue;
                };
                bytes += length;
                if bytes > max_bytes as u64 && !places.is_empty() {
                    return places;
                }
                places.push(Place {
                    offset,
                    file: Arc::clone(&segment.file),
                    position,
                    length,
                });
            }
        }
        places
    }

    fn gap(&mut self) -> Option<ReadEvent> {
        let to = self.shared.lock().first();
        let from = self.at;
        (from < to).then(|| {
            self.at = to;
            ReadEvent::Gap {
                partition: 0,
                from,
                to,
            }
        })
    }
}

impl LogReader for EmbeddedReader {
    fn poll(&mut self, max_bytes: usize, max_wait: Duration) -> Result<ReadEvent, LogError> {
        if !self.announced {
            self.announced = true;
            return Ok(ReadEvent::Assigned(vec![(0, self.at)]));
        }
        if let Some(gap) = self.gap() {
            return Ok(gap);
        }
        let places = self.places(max_bytes, max_wait);
        if places.is_empty() {
            return Ok(ReadEvent::Idle);
        }
        let records = places.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        self.at += records.len() as u64;
        Ok(ReadEvent::Records {
            partition: 0,
            records,
            next: self.at,
        })
    }

    fn seek(&mut self, _partition: Partition, at: Offset) -> Result<(), LogError> {
        let next = self.shared.lock().next();
        if at > next {
            let message = format!("offset {at} lies behind the end of the log at {next}");
            return Err(LogError::Fatal(message));
        }
        self.at = at;
        Ok(())
    }

    fn commit(&mut self, next: &[(Partition, Offset)]) -> Result<(), CommitError> {
        let mut state = self.shared.lock();
        for (_, offset) in next {
            state
                .positions
                .store(&self.group, *offset)
                .map_err(|e| CommitError::Retry(e.to_string()))?;
        }
        Ok(())
    }

    fn lag(&self) -> Vec<(Partition, u64)> {
        vec![(0, self.shared.lock().next().saturating_sub(self.at))]
    }

    fn incarnation(&self) -> String {
        uuid::Uuid::from_bytes(self.shared.incarnation)
            .simple()
            .to_string()
    }
}

fn read(place: &Place) -> Result<Stored, LogError> {
    let bytes = segment::read_record(&place.file, place.position, place.length, place.offset)
        .map_err(|e| LogError::Unavailable(e.to_string()))?
        .ok_or_else(|| LogError::Fatal(format!("record {} is damaged", place.offset)))?;
    Ok(Stored {
        offset: place.offset,
        bytes: Bytes::from(bytes),
    })
}
