//! The thread that carries out what the plan decides.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use sluice_schema::frame::mark_replay;
use sluice_schema::id::FrameId;

use super::Shared;
use super::plan::{ToDrain, ToSpool};
use crate::embedded::EmbeddedLog;
use crate::{
    AppendError, Appended, CommitError, EventLog, Health, LogError, LogReader, Offset, Partition,
    ReadEvent, Record, Stored, metrics,
};

/// Frames that are drained together: their position is stored twice, not once each.
const BATCH_BYTES: usize = 1024 * 1024;
/// How often the thread looks at what nobody tells it.
const TICK: Duration = Duration::from_millis(100);

/// The thread.
pub(super) struct Worker {
    pub(super) primary: Arc<dyn EventLog>,
    pub(super) spool: Arc<EmbeddedLog>,
    pub(super) shared: Arc<Shared>,
    pub(super) drained: Box<dyn LogReader>,
    pub(super) sending: Box<dyn LogReader>,
    /// The frames that are being drained.
    pub(super) batch: HashMap<Offset, Stored>,
}

enum Work {
    Spool(ToSpool, Record),
    Send(ToDrain),
    EndBatch(Offset),
    Read,
    Wait,
    Stop,
}

impl Worker {
    /// Works until the log is dropped and nobody waits.
    pub(super) fn run(mut self) {
        loop {
            let done = match self.next_work() {
                Work::Spool(what, record) => {
                    self.spool_one(what, &record);
                    Ok(())
                }
                Work::Send(what) => {
                    self.send(what);
                    Ok(())
                }
                Work::EndBatch(next) => self.end_batch(next),
                Work::Read => self.read(),
                Work::Wait => {
                    self.wait();
                    Ok(())
                }
                Work::Stop => return,
            };
            if let Err(error) = done {
                tracing::error!(%error, "the spool cannot be drained; trying again");
                self.wait();
            }
        }
    }

    /// Waiters first.
    fn next_work(&self) -> Work {
        let ready = self.primary.health() == Health::Ready;
        let now = Instant::now();
        let mut state = self.shared.lock();
        if let Some(what) = state.plan.next_to_spool(now) {
            let record = state.waiting.get(&what.ticket).map(|w| w.record.clone());
            return record.map_or(Work::Wait, |record| Work::Spool(what, record));
        }
        if state.stop {
            return if state.plan.has_waiters() {
                Work::Wait
            } else {
                Work::Stop
            };
        }
        if !state.plan.is_draining() {
            return if ready && state.plan.backlog() > 0 {
                Work::Read
            } else {
                Work::Wait
            };
        }
        if let Some(next) = state.plan.end_batch() {
            return Work::EndBatch(next);
        }
        let sends = ready.then(|| state.plan.next_to_drain(now)).flatten();
        sends.map_or(Work::Wait, Work::Send)
    }

    fn wait(&self) {
        let state = self.shared.lock();
        metrics::spool_backlog(state.plan.backlog());
        let due = state.plan.next_due();
        let wait = due.map_or(TICK, |due| due.saturating_duration_since(Instant::now()));
        // Woken or not, the next look tells.
        drop(self.shared.changed.wait_timeout(state, wait.min(TICK)));
    }

    fn spool_one(&self, what: ToSpool, record: &Record) {
        let frame = if what.replay {
            marked(&record.bytes)
        } else {
            record.bytes.clone()
        };
        let fate = write(&self.spool, record.partition, &frame);
        let mut state = self.shared.lock();
        state.full = matches!(fate, Err(AppendError::Busy { .. }));
        let answer = match &fate {
            Ok(appended) => {
                metrics::spooled(what.reason.as_str());
                state.plan.spooled(what.ticket, appended.offset)
            }
            Err(_) => state.plan.spool_refused(what.ticket),
        };
        let done = answer.and_then(|_| state.take_completion(what.ticket));
        state.forget_unless_needed(what.ticket);
        drop(state);
        if let Some(done) = done {
            done(fate);
        }
    }

    /// Reads the next batch and notes that it will be sent.
    fn read(&mut self) -> Result<(), LogError> {
        let ReadEvent::Records { records, next, .. } =
            self.drained.poll(BATCH_BYTES, Duration::ZERO)?
        else {
            self.wait();
            return Ok(());
        };
        if let Err(error) = self.sending.commit(&[(0, next)]) {
            self.drained.seek(0, records[0].offset)?;
            return Err(LogError::Unavailable(error.to_string()));
        }
        let mut state = self.shared.lock();
        state.plan.begin(records.iter().map(|record| record.offset));
        drop(state);
        self.batch = records.into_iter().map(|r| (r.offset, r)).collect();
        Ok(())
    }

    fn send(&self, what: ToDrain) {
        let Some(stored) = self.batch.get(&what.offset) else {
            return;
        };
        let mut frame = stored.bytes.clone();
        // A topic may turn out to have fewer partitions than were assumed.
        let partition = frame.get_u32_le() % self.primary.partitions();
        let record = Record {
            id: FrameId::new(),
            partition,
            bytes: if what.replay { marked(&frame) } else { frame },
        };
        let shared = Arc::clone(&self.shared);
        let report = Box::new(move |fate| shared.drain_reported(what, &fate));
        self.primary.append(record, report);
    }

    /// The primary has the batch: its frames may go.
    fn end_batch(&mut self, next: Offset) -> Result<(), LogError> {
        metrics::drained(self.batch.len() as u64);
        self.batch.clear();
        let stored = self.drained.commit(&[(0, next)]);
        stored.map_err(|error: CommitError| LogError::Unavailable(error.to_string()))?;
        self.spool.trim(0, next)
    }
}

/// A reader of the spool and where it stands.
pub(super) fn position(
    spool: &EmbeddedLog,
    group: &str,
) -> Result<(Box<dyn LogReader>, Offset), LogError> {
    let mut reader = spool.reader(group)?;
    match reader.poll(0, Duration::ZERO)? {
        ReadEvent::Assigned(at) => Ok((reader, at.first().map_or(0, |(_, offset)| *offset))),
        _ => Err(LogError::Fatal("the spool gave no position".to_owned())),
    }
}

/// Writes a frame to the spool, synced on return.
pub(super) fn write(
    spool: &EmbeddedLog,
    partition: Partition,
    frame: &[u8],
) -> Result<Appended, AppendError> {
    let mut bytes = BytesMut::with_capacity(size_of::<Partition>() + frame.len());
    bytes.put_u32_le(partition);
    bytes.extend_from_slice(frame);
    let record = Record {
        id: FrameId::new(),
        partition: 0,
        bytes: bytes.freeze(),
    };
    let appended = spool.append_now(&record)?;
    Ok(Appended {
        partition,
        offset: appended.offset,
    })
}

/// A frame may be sent as it is when it cannot be marked: it is none of ours.
fn marked(frame: &Bytes) -> Bytes {
    mark_replay(frame).unwrap_or_else(|_| frame.clone())
}
