//! The thread that reads the log and gives each partition to its worker.
//!
//! What always holds: before a partition's worker starts, what an earlier owner
//! left running on the server is ended, and the batch that it may have stored
//! in part is read again; a position is committed only after everything below
//! it is stored.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use sluice_eventlog::{
    CommitError, EventLog, LogError, LogReader, Offset, Partition, ReadEvent, Stored,
};
use sluice_schema::clickhouse::DEDUPLICATION_WINDOW;
use tokio::runtime::Handle;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio_util::sync::CancellationToken;

use crate::AggregatorError;
use crate::context::Context;
use crate::facts::Facts;
use crate::metrics;
use crate::retry::until_done;
use crate::send::now_us;
use crate::worker::{Commit, Input, Worker, WorkerParts};

const POLL_BYTES: usize = 4 * 1024 * 1024;
const POLL_WAIT: Duration = Duration::from_millis(50);
/// Encoded frames that wait for one worker; they inflate to about ten times that.
const QUEUE_BYTES: usize = 8 * 1024 * 1024;
const PAUSE: Duration = Duration::from_millis(10);
const UNAVAILABLE_PAUSE: Duration = Duration::from_millis(500);
/// How often idle partitions are told that they have caught up.
const CAUGHT_UP_EVERY: Duration = Duration::from_millis(200);
/// Hours that a batch spans, by a wide margin.
const PARTS_PER_INSERT: u64 = 8;
/// What a stop waits for inserts in flight.
const FINISH_WITHIN: Duration = Duration::from_secs(10);

/// Where a worker begins.
enum TakeOver {
    /// At the committed position: nothing is stored beyond it.
    ReadOn,
    /// With the last batch, exactly as it was.
    Rebuild { first: Offset, last: Offset },
    /// After the last batch, whose token may be forgotten by now.
    TooLate { last: Offset },
}

/// Ends what earlier owners left running, then asks what they left behind.
async fn take_over<F: Facts>(
    context: &Context<F>,
    assigned: &[(Partition, Offset)],
) -> clickhouse::error::Result<Vec<(Partition, TakeOver)>> {
    let partitions: Vec<Partition> = assigned.iter().map(|(partition, _)| *partition).collect();
    context.store.fence(&context.source, &partitions).await?;
    let mut taken_over = Vec::with_capacity(assigned.len());
    for (partition, committed) in assigned {
        let begin = begin_at(context, *partition, *committed).await?;
        taken_over.push((*partition, begin));
    }
    Ok(taken_over)
}

async fn begin_at<F: Facts>(
    context: &Context<F>,
    partition: Partition,
    committed: Offset,
) -> clickhouse::error::Result<TakeOver> {
    let (source, store) = (&context.source, &context.store);
    let Some(batch) = store.last_batch(source, partition, committed).await? else {
        return Ok(TakeOver::ReadOn);
    };
    let (first, last) = (batch.first, batch.last);
    // An insert takes a place in a table's window for each of its parts.
    if store.batches_since(batch.received_us).await? < DEDUPLICATION_WINDOW / PARTS_PER_INSERT {
        return Ok(TakeOver::Rebuild { first, last });
    }
    tracing::error!(
        partition,
        first,
        last,
        "the last batch is too old to be sent again: rebuild its hours from raw"
    );
    Ok(TakeOver::TooLate { last })
}

/// A running worker.
struct Running {
    input: UnboundedSender<Input>,
    queued_bytes: Arc<AtomicUsize>,
    revoked: CancellationToken,
    thread: JoinHandle<()>,
}

/// The state of the reading thread.
pub(crate) struct Driver<F: Facts> {
    context: Arc<Context<F>>,
    log: Arc<dyn EventLog>,
    reader: Box<dyn LogReader>,
    workers: BTreeMap<Partition, Running>,
    /// Positions to commit.
    due: BTreeMap<Partition, Offset>,
    commits: (Sender<Commit>, Receiver<Commit>),
    runtime: Handle,
    stop: CancellationToken,
    told_at: Instant,
}

impl<F: Facts> Driver<F> {
    pub(crate) fn new(
        context: Arc<Context<F>>,
        log: Arc<dyn EventLog>,
        reader: Box<dyn LogReader>,
        runtime: Handle,
        stop: CancellationToken,
    ) -> Self {
        Self {
            context,
            log,
            reader,
            workers: BTreeMap::new(),
            due: BTreeMap::new(),
            commits: mpsc::channel(),
            runtime,
            stop,
            told_at: Instant::now(),
        }
    }

    /// Reads until it is told to stop, then lets the workers finish. Blocks.
    pub(crate) fn run(mut self) -> Result<(), AggregatorError> {
        while !self.stop.is_cancelled() {
            self.take_commits(Duration::ZERO);
            self.commit()?;
            self.check_workers()?;
            if self.is_full() {
                self.take_commits(PAUSE);
                continue;
            }
            match self.reader.poll(POLL_BYTES, POLL_WAIT) {
                Ok(event) => self.handle(event)?,
                Err(LogError::Unavailable(error)) => {
                    tracing::warn!(error, "the log cannot be read; trying again");
                    self.take_commits(UNAVAILABLE_PAUSE);
                }
                Err(error @ LogError::Fatal(_)) => return Err(error.into()),
            }
            self.tell_caught_up();
        }
        self.finish()
    }

    fn handle(&mut self, event: ReadEvent) -> Result<(), AggregatorError> {
        match event {
            ReadEvent::Assigned(assigned) => self.assign(&assigned)?,
            ReadEvent::Revoked { partitions, .. } => {
                for partition in partitions {
                    self.revoke(partition);
                }
            }
            ReadEvent::Records {
                partition, records, ..
            } => self.hand_over(partition, records),
            ReadEvent::Gap {
                partition,
                from,
                to,
            } => self.tell(partition, Input::Gap { from, to }),
            ReadEvent::Idle => {}
        }
        Ok(())
    }

    /// Takes partitions over: see docs/decisions/0011.
    fn assign(&mut self, assigned: &[(Partition, Offset)]) -> Result<(), AggregatorError> {
        for (partition, _) in assigned {
            self.revoke(*partition);
        }
        let context = Arc::clone(&self.context);
        let taken_over = self
            .runtime
            .block_on(until_done("take-over", &self.stop, || {
                take_over(&context, assigned)
            }));
        // Stopped meanwhile: nothing is to be started.
        for (partition, taken_over) in taken_over.unwrap_or_default() {
            let rebuild = match taken_over {
                TakeOver::ReadOn => None,
                TakeOver::Rebuild { first, last } => {
                    tracing::info!(partition, first, last, "sending the last batch again");
                    self.reader.seek(partition, first)?;
                    Some(last)
                }
                TakeOver::TooLate { last } => {
                    self.reader.seek(partition, last + 1)?;
                    None
                }
            };
            self.start_worker(partition, rebuild)?;
        }
        Ok(())
    }

    fn start_worker(
        &mut self,
        partition: Partition,
        rebuild: Option<Offset>,
    ) -> Result<(), AggregatorError> {
        self.context.progress.assigned(partition);
        let (sender, input) = unbounded_channel();
        let queued_bytes = Arc::new(AtomicUsize::new(0));
        let revoked = CancellationToken::new();
        let worker = Worker::new(WorkerParts {
            context: Arc::clone(&self.context),
            partition,
            rebuild,
            input,
            queued_bytes: Arc::clone(&queued_bytes),
            commits: self.commits.0.clone(),
            revoked: revoked.clone(),
        });
        let runtime = self.runtime.clone();
        let thread = thread::Builder::new()
            .name(format!("{}-{partition}", F::LOG))
            .spawn(move || runtime.block_on(worker.run()))
            .map_err(|e| AggregatorError::Worker(format!("no thread for a worker: {e}")))?;
        let running = Running {
            input: sender,
            queued_bytes,
            revoked,
            thread,
        };
        self.workers.insert(partition, running);
        Ok(())
    }

    /// Ends a worker at once and forgets what it had not stored.
    fn revoke(&mut self, partition: Partition) {
        let Some(worker) = self.workers.remove(&partition) else {
            return;
        };
        worker.revoked.cancel();
        // It notices within one decoded frame.
        let _ = worker.thread.join();
        self.take_commits(Duration::ZERO);
        self.due.remove(&partition);
        self.context.progress.revoked(partition);
        F::revoked(&self.context.shared, partition);
    }

    fn hand_over(&self, partition: Partition, records: Vec<Stored>) {
        if let Some(worker) = self.workers.get(&partition) {
            let bytes = records.iter().map(|record| record.bytes.len()).sum();
            worker.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
        }
        self.tell(partition, Input::Records(records));
    }

    fn tell(&self, partition: Partition, input: Input) {
        if let Some(worker) = self.workers.get(&partition) {
            // A worker that is gone is found by `check_workers`.
            let _ = worker.input.send(input);
        }
    }

    /// Whether a worker has as much before it as it may.
    fn is_full(&self) -> bool {
        let mut workers = self.workers.values();
        workers.any(|worker| worker.queued_bytes.load(Ordering::Relaxed) >= QUEUE_BYTES)
    }

    fn tell_caught_up(&mut self) {
        if self.told_at.elapsed() < CAUGHT_UP_EVERY {
            return;
        }
        self.told_at = Instant::now();
        for (partition, lag) in self.reader.lag() {
            metrics::lag(F::LOG, partition, lag);
            if lag == 0 {
                self.tell(partition, Input::CaughtUp(now_us()));
            }
        }
    }

    /// Takes in what workers have stored, waiting up to `wait` for the first.
    fn take_commits(&mut self, wait: Duration) {
        let first = match self.commits.1.recv_timeout(wait) {
            Ok(commit) => commit,
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return,
        };
        let more: Vec<Commit> = self.commits.1.try_iter().collect();
        for Commit { partition, next } in std::iter::once(first).chain(more) {
            if self.workers.contains_key(&partition) {
                self.due.insert(partition, next);
            }
        }
    }

    fn commit(&mut self) -> Result<(), AggregatorError> {
        if self.due.is_empty() {
            return Ok(());
        }
        let positions: Vec<(Partition, Offset)> = self
            .due
            .iter()
            .map(|(partition, next)| (*partition, *next))
            .collect();
        match self.reader.commit(&positions) {
            Ok(()) => {
                self.due.clear();
                self.trim(&positions);
                Ok(())
            }
            Err(CommitError::Retry(error)) => {
                metrics::retried("commit");
                tracing::warn!(error, "positions were not committed; trying again");
                Ok(())
            }
            // The partitions will be revoked with the next poll; their new owner reads on.
            Err(CommitError::Lost) => {
                self.due.clear();
                Ok(())
            }
            Err(CommitError::Fatal(error)) => Err(AggregatorError::Worker(error)),
        }
    }

    fn trim(&self, positions: &[(Partition, Offset)]) {
        for (partition, next) in positions {
            if let Err(error) = self.log.trim(*partition, *next) {
                tracing::warn!(%error, partition, "the log was not trimmed");
            }
        }
    }

    fn check_workers(&self) -> Result<(), AggregatorError> {
        let mut workers = self.workers.iter();
        match workers.find(|(_, worker)| worker.thread.is_finished()) {
            None => Ok(()),
            Some((partition, _)) => Err(AggregatorError::Worker(format!(
                "the worker of partition {partition} has ended"
            ))),
        }
    }

    /// Lets the workers end what they have in flight, and commits it.
    fn finish(mut self) -> Result<(), AggregatorError> {
        let deadline = Instant::now() + FINISH_WITHIN;
        // With the input dropped a worker begins nothing new.
        let running: Vec<(CancellationToken, JoinHandle<()>)> = std::mem::take(&mut self.workers)
            .into_values()
            .map(|worker| (worker.revoked, worker.thread))
            .collect();
        while !running.iter().all(|(_, thread)| thread.is_finished()) {
            if Instant::now() > deadline {
                for (revoked, _) in &running {
                    revoked.cancel();
                }
            }
            thread::sleep(PAUSE);
        }
        for Commit { partition, next } in self.commits.1.try_iter() {
            self.due.insert(partition, next);
        }
        self.commit()
    }
}
