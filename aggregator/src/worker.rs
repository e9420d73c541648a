//! One partition: its records become batches, one insert at a time.
//!
//! The worker owns a thread. What it decodes it allocates and frees there;
//! only the sending of a closed batch runs elsewhere, while the next one fills.
//!
//! What always holds: batches of a partition are sent one after the other and
//! the same bytes until they are acknowledged; whether a replayed frame counts
//! depends only on what precedes it in the partition.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::future::pending;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Instant;

use bytes::Bytes;
use sluice_eventlog::{Offset, Partition, Stored};
use sluice_schema::frame::{Frame, FrameHeader, Request, read_header};
use sluice_schema::id::FrameId;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::assemble::Assembly;
use crate::batch::{BatchId, Batcher, Close};
use crate::context::{Context, Place};
use crate::facts::Facts;
use crate::metrics;
use crate::retry::Stopped;
use crate::send::{Job, send};

/// What the reader tells a worker, in the order of the partition.
pub(crate) enum Input {
    /// Consecutive records.
    Records(Vec<Stored>),
    /// Offsets that the log no longer has.
    Gap { from: Offset, to: Offset },
    /// At this moment, in microseconds since 1970, there was nothing more to read.
    CaughtUp(i64),
}

/// The position after a batch that is stored.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Commit {
    pub(crate) partition: Partition,
    pub(crate) next: Offset,
}

/// What a worker is made of.
pub(crate) struct WorkerParts<F: Facts> {
    pub(crate) context: Arc<Context<F>>,
    pub(crate) partition: Partition,
    /// Where the batch ends that an earlier owner may have stored in part.
    pub(crate) rebuild: Option<Offset>,
    /// Closed when the process stops: what is in flight is finished, nothing is begun.
    pub(crate) input: UnboundedReceiver<Input>,
    pub(crate) queued_bytes: Arc<AtomicUsize>,
    pub(crate) commits: mpsc::Sender<Commit>,
    /// The partition is lost: end at once.
    pub(crate) revoked: CancellationToken,
}

/// The state of one partition.
pub(crate) struct Worker<F: Facts> {
    parts: WorkerParts<F>,
    assembly: Assembly<F>,
    batcher: Batcher,
    backlog: VecDeque<Stored>,
    /// Records below are stored already, but could not be rebuilt.
    skip_below: Offset,
    closed: Option<Job<F>>,
    in_flight: Option<JoinHandle<Result<Job<F>, Stopped>>>,
    /// Frames with rows in batches that are not acknowledged, and their offsets.
    unacknowledged: HashMap<FrameId, Offset>,
}

impl<F: Facts> Worker<F> {
    pub(crate) fn new(parts: WorkerParts<F>) -> Self {
        let mut batcher = Batcher::new(parts.context.limits);
        if let Some(last) = parts.rebuild {
            batcher.rebuild_until(last);
        }
        Self {
            parts,
            assembly: Assembly::default(),
            batcher,
            backlog: VecDeque::new(),
            skip_below: 0,
            closed: None,
            in_flight: None,
            unacknowledged: HashMap::new(),
        }
    }

    /// Runs until the partition is lost or the input is closed.
    pub(crate) async fn run(mut self) {
        // `Stopped` is how the loop ends.
        let Err(Stopped) = self.run_until_stopped().await;
        if let Some(insert) = self.in_flight.take() {
            insert.abort();
        }
    }

    async fn run_until_stopped(&mut self) -> Result<Infallible, Stopped> {
        loop {
            self.fill().await?;
            let closed = self.close_if_due().await?;
            self.send_closed();
            // With a batch closed the next one can fill meanwhile.
            if !closed {
                self.wait().await?;
            }
        }
    }

    /// Moves records into the open batch until it is full or none is left.
    async fn fill(&mut self) -> Result<(), Stopped> {
        while let Some(record) = self.backlog.front() {
            if self.insert_is_done() {
                return Ok(());
            }
            if record.offset >= self.skip_below {
                let events = read_header(&record.bytes).map_or(0, |header| header.events);
                if !self.batcher.admits(record.offset, events as usize) {
                    return Ok(());
                }
                self.add(&record.clone()).await?;
            }
            if let Some(record) = self.backlog.pop_front() {
                let queued = &self.parts.queued_bytes;
                queued.fetch_sub(record.bytes.len(), Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// The server has nothing to do until its answer is taken in.
    fn insert_is_done(&self) -> bool {
        self.in_flight.as_ref().is_some_and(JoinHandle::is_finished)
    }

    async fn add(&mut self, record: &Stored) -> Result<(), Stopped> {
        match Frame::decode(&record.bytes) {
            Err(error) => self.assembly.add_malformed(record, error),
            Ok(frame) => match frame.requests() {
                Err(error) => self.assembly.add_malformed(record, error),
                Ok(requests) => self.add_frame(record, &frame.header, &requests).await?,
            },
        }
        let facts = &self.assembly.facts;
        self.batcher.add(record.offset, facts.len(), facts.bytes());
        Ok(())
    }

    async fn add_frame(
        &mut self,
        record: &Stored,
        header: &FrameHeader,
        requests: &[Request<'_>],
    ) -> Result<(), Stopped> {
        let place = Place {
            partition: self.parts.partition,
            offset: record.offset,
        };
        let (context, stop) = (&self.parts.context, &self.parts.revoked);
        if header.replay {
            let known = self.unacknowledged.contains_key(&header.id);
            if known || context.is_stored(place, header.id, requests, stop).await? {
                self.assembly.add_replayed(header);
                return Ok(());
            }
        }
        let projects = context.resolve(place, requests, stop).await?;
        let rows_before = self.assembly.facts.len();
        self.assembly.add_frame(record, header, requests, &projects);
        // As the store will answer once they are there: by rows.
        if self.assembly.facts.len() > rows_before {
            self.unacknowledged.insert(header.id, record.offset);
        }
        Ok(())
    }

    /// Closes the open batch if it is full, or due while nothing is in flight.
    async fn close_if_due(&mut self) -> Result<bool, Stopped> {
        if self.closed.is_some() || self.parts.input.is_closed() {
            return Ok(false);
        }
        let now = Instant::now();
        let due = match self.batcher.close(now) {
            Close::Now => true,
            Close::From(at) => self.in_flight.is_none() && at <= now,
            Close::Never => false,
        };
        if due {
            let rebuilt = self.batcher.rebuilds().is_some();
            if let Some(range) = self.batcher.take(now) {
                self.closed = Some(self.close(range).await?);
                if rebuilt {
                    metrics::recovered();
                }
            }
        }
        Ok(due)
    }

    async fn close(&mut self, (first, last): (Offset, Offset)) -> Result<Job<F>, Stopped> {
        let (context, stop) = (&self.parts.context, &self.parts.revoked);
        let beside = self.assembly.facts.close(context, stop).await?;
        let id = BatchId {
            source: Arc::clone(&context.source),
            partition: self.parts.partition,
            first,
            last,
        };
        let facts = &self.assembly.facts;
        let block = match facts.len() {
            0 => Bytes::new(),
            _ => facts.encode(&id),
        };
        let (rows, received_us) = (facts.len(), facts.received_us());
        let remains = self.assembly.take();
        Ok(Job {
            id,
            rows,
            block,
            letters: remains.letters,
            beside,
            received_us,
            outcomes: remains.outcomes,
        })
    }

    fn send_closed(&mut self) {
        if self.in_flight.is_none()
            && let Some(job) = self.closed.take()
        {
            let context = Arc::clone(&self.parts.context);
            let stop = self.parts.revoked.clone();
            self.in_flight = Some(tokio::spawn(send(context, job, stop)));
        }
    }

    /// Waits for the next thing to happen, and takes it in.
    async fn wait(&mut self) -> Result<(), Stopped> {
        let due = match self.batcher.close(Instant::now()) {
            Close::From(at) if self.in_flight.is_none() => Some(at),
            _ => None,
        };
        tokio::select! {
            biased;
            () = self.parts.revoked.cancelled() => Err(Stopped),
            done = finished(&mut self.in_flight) => self.acknowledged(&done?),
            input = self.parts.input.recv(), if self.backlog.is_empty() || self.parts.input.is_closed() => match input {
                Some(input) => {
                    self.take_in(input);
                    Ok(())
                }
                None => self.finish().await,
            },
            () = sleep_until(due) => Ok(()),
        }
    }

    /// The process stops: what is in flight is finished, what is open stays in the log.
    async fn finish(&mut self) -> Result<(), Stopped> {
        let done = match self.in_flight {
            Some(_) => finished(&mut self.in_flight).await,
            None => Err(Stopped),
        };
        self.acknowledged(&done?)?;
        Err(Stopped)
    }

    fn acknowledged(&mut self, job: &Job<F>) -> Result<(), Stopped> {
        self.assembly.facts.acknowledged(&job.beside);
        self.unacknowledged.retain(|_, at| *at > job.id.last);
        let partition = self.parts.partition;
        if let Some((_, newest_us)) = job.received_us {
            let progress = &self.parts.context.progress;
            progress.stored(partition, job.rows as u64, newest_us);
        }
        let commit = Commit {
            partition,
            next: job.id.last + 1,
        };
        self.parts.commits.send(commit).map_err(|_| Stopped)
    }

    fn take_in(&mut self, input: Input) {
        match input {
            Input::Records(records) => self.backlog.extend(records),
            Input::Gap { from, to } => self.skip_gap(from, to),
            Input::CaughtUp(now_us) => {
                let idle = self.in_flight.is_none() && self.closed.is_none();
                if idle && self.batcher.range().is_none() {
                    let progress = &self.parts.context.progress;
                    progress.caught_up(self.parts.partition, now_us);
                }
            }
        }
    }

    /// Records are gone. If the batch to rebuild is among them, what it left is
    /// all there will be: its token must not name other rows.
    fn skip_gap(&mut self, from: Offset, to: Offset) {
        let stored_below = match self.batcher.rebuilds() {
            Some(last) => {
                self.batcher.abandon();
                self.assembly.take();
                self.skip_below = last + 1;
                last + 1
            }
            None => from,
        };
        let lost = to.saturating_sub(from.max(stored_below));
        metrics::gap(lost);
        let partition = self.parts.partition;
        tracing::error!(
            partition,
            from,
            to,
            lost,
            "the log no longer has records that were not stored"
        );
    }
}

/// Waits for the insert in flight; for ever where there is none.
async fn finished<F: Facts>(
    in_flight: &mut Option<JoinHandle<Result<Job<F>, Stopped>>>,
) -> Result<Job<F>, Stopped> {
    match in_flight {
        None => pending().await,
        Some(insert) => {
            let done = insert.await;
            *in_flight = None;
            // A task that panicked stops the worker, which the reader reports.
            done.unwrap_or(Err(Stopped))
        }
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => pending().await,
    }
}
