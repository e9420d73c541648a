//! Appends: one write, one data sync, then the record is visible.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::segment::{self, Incarnation, MAX_RECORD_BYTES, RECORD_HEADER_BYTES, Segment};
use super::{EmbeddedConfig, Shared, positions, segment_path};
use crate::{AppendError, Offset, metrics};

const RETRY_AFTER: Duration = Duration::from_secs(5);

/// The one appender of a log.
pub(crate) struct Writer {
    config: EmbeddedConfig,
    record: Vec<u8>,
}

impl Writer {
    pub(crate) fn new(config: EmbeddedConfig) -> Self {
        Self {
            config,
            record: Vec::new(),
        }
    }

    /// Makes `bytes` durable and visible; returns its offset.
    pub(crate) fn append(&mut self, shared: &Shared, bytes: &[u8]) -> Result<Offset, AppendError> {
        if bytes.len() > MAX_RECORD_BYTES {
            return Err(AppendError::TooLarge);
        }
        self.make_room(shared, bytes.len() as u64)?;
        let (offset, end, file) = {
            let state = shared.lock();
            let open = state
                .segments
                .back()
                .ok_or_else(|| gone("no open segment"))?;
            (open.next(), open.end, Arc::clone(&open.file))
        };
        segment::encode_record(offset, bytes, &mut self.record);
        if let Err(error) = file.write_all_at(&self.record, end) {
            return Err(failed_write(shared, &file, end, &error));
        }
        file.sync_data()
            .map_err(|error| poison(shared, "sync", &error))?;
        publish(shared, end, self.record.len() as u64);
        Ok(offset)
    }

    /// Refuses when the log or the disk is full; seals a segment that is.
    fn make_room(&self, shared: &Shared, bytes: u64) -> Result<(), AppendError> {
        let needed = bytes + RECORD_HEADER_BYTES;
        let mut state = shared.lock();
        if let Some(reason) = &state.poisoned {
            return Err(AppendError::Rejected(reason.clone()));
        }
        let free = rustix::fs::statvfs(&shared.dir)
            .map_or(u64::MAX, |stat| stat.f_bavail.saturating_mul(stat.f_frsize));
        if state.bytes() + needed > self.config.max_bytes
            || free < self.config.reserve_bytes + needed
        {
            return Err(AppendError::Busy {
                retry_after: RETRY_AFTER,
            });
        }
        let open = state
            .segments
            .back()
            .ok_or_else(|| gone("no open segment"))?;
        if open.end >= self.config.segment_bytes {
            let next = open.next();
            let segment = create_segment(&shared.dir, next, &shared.incarnation)
                .map_err(|error| AppendError::Unknown(format!("new segment: {error}")))?;
            state.segments.push_back(segment);
        }
        Ok(())
    }
}

fn gone(what: &str) -> AppendError {
    AppendError::Rejected(what.to_owned())
}

/// A full disk may take part of a record: cut it off again and go on. Any
/// other failure leaves the file in a state that nobody knows.
fn failed_write(shared: &Shared, file: &File, end: u64, error: &io::Error) -> AppendError {
    let full = error.kind() == io::ErrorKind::StorageFull;
    if full && file.set_len(end).is_ok() {
        return AppendError::Busy {
            retry_after: RETRY_AFTER,
        };
    }
    poison(shared, "write", error)
}

fn poison(shared: &Shared, what: &str, error: &io::Error) -> AppendError {
    let reason = format!("a {what} of the log failed, restart needed: {error}");
    tracing::error!(directory = %shared.dir.display(), reason);
    metrics::poisoned();
    shared.lock().poisoned = Some(reason.clone());
    AppendError::Unknown(reason)
}

fn publish(shared: &Shared, position: u64, length: u64) {
    let mut state = shared.lock();
    if let Some(open) = state.segments.back_mut() {
        open.positions.push(position);
        open.end = position + length;
    }
    metrics::backlog(state.bytes());
    drop(state);
    shared.appended.notify_all();
}

/// Creates an empty segment, durable on return.
pub(crate) fn create_segment(
    dir: &Path,
    first: Offset,
    incarnation: &Incarnation,
) -> io::Result<Segment> {
    let path = segment_path(dir, first);
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(path)?;
    file.write_all_at(&segment::file_header(incarnation), 0)?;
    file.sync_all()?;
    positions::sync_dir(dir)?;
    let end = segment::FILE_HEADER_BYTES;
    Ok(Segment {
        first,
        file: Arc::new(file),
        positions: Vec::new(),
        end,
    })
}
