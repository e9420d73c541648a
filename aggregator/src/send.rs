//! Makes a closed batch durable, in the one order that survives a crash
//! between any two steps.
//!
//! Letters, then what the rows rest on, then the rows, then what rests on them;
//! the position is committed by the reader afterwards. Each step may be
//! repeated: see docs/decisions/0011.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use sluice_eventlog::AppendError;
use tokio_util::sync::CancellationToken;

use crate::batch::BatchId;
use crate::context::Context;
use crate::dead_letter::DeadLetter;
use crate::facts::Facts;
use crate::metrics::{self, Outcomes};
use crate::retry::{Stopped, until_done};

/// How often a full log of dead letters is asked again.
const MAX_REFUSALS: u32 = 5;

/// A closed batch.
pub(crate) struct Job<F: Facts> {
    pub(crate) id: BatchId,
    pub(crate) rows: usize,
    /// Empty where the batch left no row.
    pub(crate) block: Bytes,
    pub(crate) letters: Vec<DeadLetter>,
    pub(crate) beside: F::Beside,
    /// Earliest and latest receipt, in microseconds since 1970.
    pub(crate) received_us: Option<(i64, i64)>,
    pub(crate) outcomes: Outcomes,
}

/// Microseconds since 1970.
pub(crate) fn now_us() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_micros() as i64)
}

/// Sends `job` until it is acknowledged; gives it back.
pub(crate) async fn send<F: Facts>(
    context: Arc<Context<F>>,
    job: Job<F>,
    stop: CancellationToken,
) -> Result<Job<F>, Stopped> {
    post_letters(&context, &job, &stop).await?;
    F::store_before(&context, &job, &stop).await?;
    if job.rows > 0 {
        store_rows(&context, &job, &stop).await?;
    }
    F::store_after(&context, &job, &stop).await?;
    metrics::count_outcomes(F::LOG, &job.outcomes);
    Ok(job)
}

async fn post_letters<F: Facts>(
    context: &Context<F>,
    job: &Job<F>,
    stop: &CancellationToken,
) -> Result<(), Stopped> {
    let partition = job.id.partition;
    for letter in &job.letters {
        tracing::warn!(
            reason = letter.reason.as_str(),
            detail = letter.detail,
            offset = letter.offset,
            partition,
            "dead letter"
        );
        post_letter(context, job, letter, stop).await?;
    }
    Ok(())
}

/// A log of dead letters that stays full costs a letter, not the partition.
async fn post_letter<F: Facts>(
    context: &Context<F>,
    job: &Job<F>,
    letter: &DeadLetter,
    stop: &CancellationToken,
) -> Result<(), Stopped> {
    let refusals = AtomicU32::new(0);
    let (office, source, partition) = (&context.dead_letters, &job.id.source, job.id.partition);
    until_done("dead letter", stop, || async {
        match office.post(letter, source, partition).await {
            Err(AppendError::Busy { .. })
                if refusals.fetch_add(1, Ordering::Relaxed) == MAX_REFUSALS =>
            {
                metrics::letter_lost();
                Ok(())
            }
            answer => answer,
        }
    })
    .await
}

async fn store_rows<F: Facts>(
    context: &Context<F>,
    job: &Job<F>,
    stop: &CancellationToken,
) -> Result<(), Stopped> {
    let started = Instant::now();
    until_done("insert", stop, || {
        context.store.insert(&job.id, job.block.clone())
    })
    .await?;
    metrics::inserted(F::LOG, job.rows, started.elapsed());
    report_freshness(job);
    Ok(())
}

fn report_freshness<F: Facts>(job: &Job<F>) {
    if let Some((oldest_us, _)) = job.received_us {
        let waited_us = now_us().saturating_sub(oldest_us).max(0);
        metrics::fresh(F::LOG, Duration::from_micros(waited_us as u64));
    }
}
