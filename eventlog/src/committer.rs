//! Group commit: many requests wait, one thread cuts frames from all that wait.
//!
//! There is no linger timer. While fewer than `in_flight` frames are being made
//! durable, whatever waits becomes the next frame at once; while that many are,
//! requests gather. So the commit in flight is the linger, a lone request never
//! waits for company, and a crowd shares one sync.
//!
//! What always holds: a submission ends in exactly one answer, in the order of
//! its frame; `Ok` only after the log said that its frame is durable; the queue
//! never holds more than `queue_bytes` of payload.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use sluice_schema::frame::{ContentKind, FrameBuilder, ProjectRef, Request};
use sluice_schema::id::{FrameId, ProjectId};
use thiserror::Error;
use tokio::sync::oneshot;

use crate::metrics;
use crate::{AppendError, EventLog, Partition, Record};

/// Frames that go to one partition before the next one's turn comes: low
/// traffic fills one partition at a time instead of a little of each.
const FRAMES_PER_PARTITION: u64 = 64;

/// What a refused submission is told to wait.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Whose request it is: the owned form of [`ProjectRef`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Project {
    /// Resolved by the edge's directory.
    Id(ProjectId),
    /// To be resolved downstream.
    Slug(Box<str>),
}

impl Project {
    fn as_ref(&self) -> ProjectRef<'_> {
        match self {
            Self::Id(id) => ProjectRef::Id(*id),
            Self::Slug(slug) => ProjectRef::Slug(slug),
        }
    }
}

/// One accepted request on its way into the log.
#[derive(Clone, Debug)]
pub struct Submission {
    /// Whose it is.
    pub project: Project,
    /// When the edge accepted it, in microseconds since 1970.
    pub received_at_us: i64,
    /// What the payload is.
    pub kind: ContentKind,
    /// The body as the device sent it, inflated.
    pub payload: Bytes,
    /// Number of events that the payload will become.
    pub events: u32,
}

/// Why a submission is not known to be durable.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SubmitError {
    /// The queue or the log is full. Nothing was stored.
    #[error("too much waits already, retry after {retry_after:?}")]
    Busy {
        /// When a retry makes sense.
        retry_after: Duration,
    },
    /// Larger than the log accepts.
    #[error("the request is larger than the log accepts")]
    TooLarge,
    /// The log refuses or lost track: the request may or may not be stored.
    #[error("the log is unavailable")]
    Unavailable,
}

impl From<&AppendError> for SubmitError {
    fn from(error: &AppendError) -> Self {
        match error {
            AppendError::Busy { retry_after } => Self::Busy {
                retry_after: *retry_after,
            },
            AppendError::TooLarge => Self::TooLarge,
            AppendError::Rejected(_) | AppendError::Unknown(_) => Self::Unavailable,
        }
    }
}

/// How much may wait and how many frames may be under way.
#[derive(Clone, Copy, Debug)]
pub struct CommitterConfig {
    /// Payload bytes that may wait; more is refused as busy.
    pub queue_bytes: usize,
    /// Frames under way at a time: 1 where the log syncs while it is called, 2 on Kafka.
    pub in_flight: usize,
}

impl Default for CommitterConfig {
    fn default() -> Self {
        Self {
            queue_bytes: 64 * 1024 * 1024,
            in_flight: 2,
        }
    }
}

type Answer = oneshot::Sender<Result<(), SubmitError>>;

struct Waiting {
    submission: Submission,
    answer: Answer,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Waiting>,
    waiting_bytes: usize,
    in_flight: usize,
    /// The committer thread sleeps and wants to be woken.
    asleep: bool,
    closed: bool,
}

struct Shared {
    config: CommitterConfig,
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is valid between any two statements that hold the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self, state: &mut State) {
        if std::mem::take(&mut state.asleep) {
            self.changed.notify_one();
        }
    }
}

/// Submits requests; cheap to clone.
#[derive(Clone)]
pub struct CommitterHandle {
    shared: Arc<Shared>,
}

impl CommitterHandle {
    /// Waits until the request is durable.
    pub async fn submit(&self, submission: Submission) -> Result<(), SubmitError> {
        let answer = self.enqueue(submission)?;
        answer.await.unwrap_or(Err(SubmitError::Unavailable))
    }

    fn enqueue(
        &self,
        submission: Submission,
    ) -> Result<oneshot::Receiver<Result<(), SubmitError>>, SubmitError> {
        let (answer, answered) = oneshot::channel();
        let bytes = submission.payload.len();
        let mut state = self.shared.lock();
        if state.closed {
            return Err(SubmitError::Unavailable);
        }
        if state.waiting_bytes + bytes > self.shared.config.queue_bytes {
            return Err(SubmitError::Busy {
                retry_after: RETRY_AFTER,
            });
        }
        state.waiting_bytes += bytes;
        state.waiting.push_back(Waiting { submission, answer });
        self.shared.wake(&mut state);
        Ok(answered)
    }
}

/// The committer thread. Dropping it closes the queue, makes durable what
/// waits, and joins the thread.
pub struct Committer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Committer {
    /// Starts the thread.
    pub fn start<L: EventLog + ?Sized>(
        log: Arc<L>,
        config: CommitterConfig,
    ) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            config,
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let of_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("committer".to_owned())
            .spawn(move || run(&of_thread, &*log))?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// A handle to submit with.
    pub fn handle(&self) -> CommitterHandle {
        CommitterHandle {
            shared: Arc::clone(&self.shared),
        }
    }

    /// Refuses new submissions, waits until those that wait are answered. Blocks.
    pub fn close(&mut self) {
        {
            let mut state = self.shared.lock();
            state.closed = true;
            self.shared.wake(&mut state);
        }
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the committer thread panicked");
        }
    }
}

impl Drop for Committer {
    fn drop(&mut self) {
        self.close();
    }
}

fn run<L: EventLog + ?Sized>(shared: &Arc<Shared>, log: &L) {
    let mut builder = FrameBuilder::new();
    let mut frames = 0;
    let mut answers = Vec::new();
    while cut(shared, &mut builder, &mut answers) {
        let partition = partition_of(frames, log.partitions());
        frames += 1;
        let id = FrameId::new();
        metrics::frame_cut(builder.requests());
        let bytes = builder.finish(id);
        let released = std::mem::take(&mut answers);
        let shared = Arc::clone(shared);
        log.append(
            Record {
                id,
                partition,
                bytes,
            },
            Box::new(move |fate| {
                release(
                    released,
                    &fate.as_ref().map(|_| ()).map_err(SubmitError::from),
                );
                let mut state = shared.lock();
                state.in_flight -= 1;
                shared.wake(&mut state);
            }),
        );
    }
}

fn partition_of(frames: u64, partitions: u32) -> Partition {
    let turn = frames / FRAMES_PER_PARTITION % u64::from(partitions.max(1));
    // Below `partitions`, which is a u32.
    turn as Partition
}

fn release(answers: Vec<Answer>, fate: &Result<(), SubmitError>) {
    for answer in answers {
        // A receiver that is gone is a device that hung up: nobody to tell.
        let _ = answer.send(fate.clone());
    }
}

/// Waits until a frame can be cut and moves its requests into `builder`.
/// False once the queue is closed and nothing waits or is under way.
fn cut(shared: &Shared, builder: &mut FrameBuilder, answers: &mut Vec<Answer>) -> bool {
    let mut state = shared.lock();
    loop {
        let may_cut = state.in_flight < shared.config.in_flight.max(1);
        if may_cut && !state.waiting.is_empty() {
            break;
        }
        if state.closed && state.waiting.is_empty() && state.in_flight == 0 {
            return false;
        }
        state.asleep = true;
        state = shared
            .changed
            .wait(state)
            .unwrap_or_else(PoisonError::into_inner);
    }
    state.in_flight += 1;
    let taken = take_frame(&mut state);
    drop(state);
    for Waiting { submission, answer } in taken {
        let request = Request {
            project: submission.project.as_ref(),
            received_at_us: submission.received_at_us,
            kind: submission.kind,
            payload: &submission.payload,
        };
        builder.push(&request, submission.events);
        answers.push(answer);
    }
    true
}

/// Takes the longest prefix of what waits that fits one frame: at least one.
fn take_frame(state: &mut State) -> VecDeque<Waiting> {
    let mut size = sluice_schema::frame::FrameSize::default();
    let fitting = state
        .waiting
        .iter()
        .take_while(|w| size.add(w.submission.payload.len(), w.submission.events))
        .count();
    let rest = state.waiting.split_off(fitting);
    let taken = std::mem::replace(&mut state.waiting, rest);
    state.waiting_bytes -= taken
        .iter()
        .map(|w| w.submission.payload.len())
        .sum::<usize>();
    taken
}

#[cfg(test)]
mod tests;
