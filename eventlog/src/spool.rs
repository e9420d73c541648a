//! A log in front of a log: what the primary cannot take in time waits on disk.
//!
//! A frame whose append fails, or is not durable within a deadline, is written
//! to an embedded log with its partition, and its waiter is released as soon as
//! that is synced. While the primary is known to be away, frames go there at
//! once. What waits is drained in order, to the same partitions.
//!
//! What always holds is said in `plan`, which decides; `worker` is the thread
//! that carries it out. A spooled record is its partition (u32, little-endian) and
//! the frame. Two positions are kept in the spool: `drained`, below which the
//! primary has everything, and `sending`, below which it may have something: it
//! is stored before the first frame is sent, so that after a crash just those
//! frames carry the replay mark.

mod plan;
mod worker;

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use self::plan::{Plan, Reason, Report, Route, Ticket, ToDrain};
use self::worker::{Worker, position, write};
use crate::embedded::{EmbeddedConfig, EmbeddedLog};
use crate::{
    AppendError, Appended, Completion, EventLog, Health, LogError, LogReader, Offset, Partition,
    Record, metrics,
};

const DRAINED: &str = "drained";
const SENDING: &str = "sending";
/// So small that a drained spool gives the disk back.
const SEGMENT_BYTES: u64 = 8 * 1024 * 1024;

/// Labels of the spooled frames' metric.
pub(crate) const REASONS: [&str; 3] = [
    Reason::Late.as_str(),
    Reason::Failed.as_str(),
    Reason::Away.as_str(),
];

/// When frames are spooled, and how many.
#[derive(Clone, Copy, Debug)]
pub struct SpoolConfig {
    /// A frame that is not durable after this is spooled. See docs/decisions/0021.
    pub deadline: Duration,
    /// The spool refuses frames as busy when it holds this much.
    pub max_bytes: u64,
    /// It also refuses them while the disk has less than this left.
    pub reserve_bytes: u64,
}

impl Default for SpoolConfig {
    fn default() -> Self {
        let embedded = EmbeddedConfig::default();
        Self {
            deadline: Duration::from_secs(1),
            max_bytes: embedded.max_bytes,
            reserve_bytes: embedded.reserve_bytes,
        }
    }
}

/// What waits in a spool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backlog {
    /// Frames that the primary does not have yet.
    pub frames: u64,
    /// Bytes on disk, with what was drained but not yet removed.
    pub bytes: u64,
}

struct Waiting {
    record: Record,
    done: Option<Completion>,
}

struct State {
    plan: Plan,
    waiting: HashMap<Ticket, Waiting>,
    /// The last frame was refused.
    full: bool,
    stop: bool,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is valid between any two statements that hold the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The primary's last word on a frame that came from a waiter.
    fn reported(&self, ticket: Ticket, fate: Result<Appended, AppendError>) {
        let report = fate.as_ref().err().map_or(Report::Stored, Report::from);
        let mut state = self.lock();
        let answer = state.plan.reported(ticket, report);
        let done = answer.and_then(|_| state.take_completion(ticket));
        state.forget_unless_needed(ticket);
        self.changed.notify_one();
        drop(state);
        if let Some(done) = done {
            done(fate);
        }
    }

    fn drain_reported(&self, sent: ToDrain, fate: &Result<Appended, AppendError>) {
        let report = fate.as_ref().err().map_or(Report::Stored, Report::from);
        if let Err(error) = fate {
            tracing::warn!(%error, offset = sent.offset, "a spooled frame was not drained; trying again");
        }
        let mut state = self.lock();
        let ToDrain { offset, replay } = sent;
        state
            .plan
            .drain_reported(offset, replay, report, Instant::now());
        self.changed.notify_one();
    }
}

impl State {
    fn take_completion(&mut self, ticket: Ticket) -> Option<Completion> {
        self.waiting.get_mut(&ticket)?.done.take()
    }

    /// The record is needed until it is answered or in the spool.
    fn forget_unless_needed(&mut self, ticket: Ticket) {
        if self.waiting.get(&ticket).is_some_and(|w| w.done.is_none()) {
            self.waiting.remove(&ticket);
        }
    }
}

/// A primary log with a spool in front. See the module's description.
pub struct SpooledLog {
    primary: Arc<dyn EventLog>,
    spool: Arc<EmbeddedLog>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl SpooledLog {
    /// Opens the spool in `dir` and begins to drain what is in it.
    ///
    /// # Errors
    /// The spool cannot be opened.
    pub fn open(
        primary: Arc<dyn EventLog>,
        dir: &Path,
        config: SpoolConfig,
    ) -> Result<Self, LogError> {
        let embedded = EmbeddedConfig {
            segment_bytes: SEGMENT_BYTES,
            max_bytes: config.max_bytes,
            reserve_bytes: config.reserve_bytes,
        };
        let spool = Arc::new(EmbeddedLog::open(dir, embedded)?);
        let (drained, _) = position(&spool, DRAINED)?;
        let (sending, tried_below) = position(&spool, SENDING)?;
        let backlog = drained.lag().iter().map(|(_, lag)| lag).sum();
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                plan: Plan::new(config.deadline, backlog, tried_below),
                waiting: HashMap::new(),
                full: false,
                stop: false,
            }),
            changed: Condvar::new(),
        });
        let worker = Worker {
            primary: Arc::clone(&primary),
            spool: Arc::clone(&spool),
            shared: Arc::clone(&shared),
            drained,
            sending,
            batch: HashMap::new(),
        };
        let thread = std::thread::Builder::new()
            .name("spool".to_owned())
            .spawn(move || worker.run())
            .map_err(|error| LogError::Fatal(error.to_string()))?;
        Ok(Self {
            primary,
            spool,
            shared,
            thread: Some(thread),
        })
    }

    /// What waits for the primary.
    pub fn backlog(&self) -> Backlog {
        Backlog {
            frames: self.shared.lock().plan.backlog(),
            bytes: self.spool.bytes(),
        }
    }

    fn append_to_primary(&self, ticket: Ticket, record: Record) {
        let shared = Arc::clone(&self.shared);
        let report = Box::new(move |fate| shared.reported(ticket, fate));
        self.primary.append(record, report);
    }

    fn append_to_spool(&self, record: &Record, done: Completion) {
        let fate = write(&self.spool, record.partition, &record.bytes);
        let mut state = self.shared.lock();
        state.full = matches!(fate, Err(AppendError::Busy { .. }));
        match &fate {
            Ok(_) => metrics::spooled(Reason::Away.as_str()),
            Err(_) => state.plan.not_spooled(),
        }
        drop(state);
        done(fate);
    }
}

impl EventLog for SpooledLog {
    fn partitions(&self) -> u32 {
        self.primary.partitions()
    }

    /// Durable in the primary or in the spool. A spooled record's offset is that
    /// in the spool: it has none in the primary yet.
    fn append(&self, record: Record, done: Completion) {
        let ready = self.primary.health() == Health::Ready;
        let mut state = self.shared.lock();
        match state.plan.route(Instant::now(), ready) {
            Route::Spool => {
                drop(state);
                self.append_to_spool(&record, done);
            }
            Route::Primary(ticket) => {
                let waiting = Waiting {
                    record: record.clone(),
                    done: Some(done),
                };
                state.waiting.insert(ticket, waiting);
                drop(state);
                self.append_to_primary(ticket, record);
            }
        }
    }

    fn reader(&self, group: &str) -> Result<Box<dyn LogReader>, LogError> {
        self.primary.reader(group)
    }

    fn trim(&self, partition: Partition, upto: Offset) -> Result<(), LogError> {
        self.primary.trim(partition, upto)
    }

    /// Not ready when the spool failed, or is full while the primary is away.
    fn health(&self) -> Health {
        if let Health::NotReady(reason) = self.spool.health() {
            return Health::NotReady(format!("the spool failed: {reason}"));
        }
        let Health::NotReady(reason) = self.primary.health() else {
            return Health::Ready;
        };
        let Backlog { frames, bytes } = self.backlog();
        if self.shared.lock().full {
            let message = format!("{reason}; the spool is full: {frames} frames, {bytes} bytes");
            return Health::NotReady(message);
        }
        Health::Ready
    }
}

impl Drop for SpooledLog {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the spool's thread panicked");
        }
    }
}

#[cfg(test)]
mod tests;
