//! Makes a closed batch durable, in the one order that survives a crash
//! between any two steps.
//!
//! Letters, then the dictionary, then the rows, then the ledger of late hours;
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
use crate::metrics::{self, Outcomes};
use crate::retry::{Stopped, until_done};
use crate::rows::{MICROS_PER_HOUR, NewMap};

/// How often a full log of dead letters is asked again.
const MAX_REFUSALS: u32 = 5;

/// A closed batch.
pub(crate) struct Job {
    pub(crate) id: BatchId,
    pub(crate) rows: usize,
    /// Empty where the batch left no row.
    pub(crate) block: Bytes,
    pub(crate) letters: Vec<DeadLetter>,
    pub(crate) new_maps: Vec<NewMap>,
    /// Hours since 1970 that have rows.
    pub(crate) hours: Vec<u32>,
    /// Earliest and latest receipt, in microseconds since 1970.
    pub(crate) received_us: Option<(i64, i64)>,
    /// Rows whose hours are no longer kept apart from raw.
    pub(crate) past_rates: usize,
    pub(crate) outcomes: Outcomes,
}

/// Microseconds since 1970.
pub(crate) fn now_us() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_micros() as i64)
}

/// Sends `job` until it is acknowledged; gives it back.
pub(crate) async fn send(
    context: Arc<Context>,
    job: Job,
    stop: CancellationToken,
) -> Result<Job, Stopped> {
    post_letters(&context, &job, &stop).await?;
    if job.rows > 0 {
        store_rows(&context, &job, &stop).await?;
    }
    metrics::count_outcomes(&job.outcomes);
    Ok(job)
}

async fn post_letters(
    context: &Context,
    job: &Job,
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
async fn post_letter(
    context: &Context,
    job: &Job,
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

async fn store_rows(context: &Context, job: &Job, stop: &CancellationToken) -> Result<(), Stopped> {
    let store = &context.store;
    if !job.new_maps.is_empty() {
        until_done("flag maps", stop, || async {
            store.put_flag_maps(&job.new_maps).await
        })
        .await?;
    }
    let started = Instant::now();
    until_done("insert", stop, || async {
        store.insert_health(&job.id, job.block.clone()).await
    })
    .await?;
    metrics::inserted(job.rows, started.elapsed());
    metrics::past_rates(job.past_rates);
    report_freshness(job);
    mark_late(context, job, stop).await
}

fn report_freshness(job: &Job) {
    if let Some((oldest_us, _)) = job.received_us {
        let waited_us = now_us().saturating_sub(oldest_us).max(0);
        metrics::fresh(Duration::from_micros(waited_us as u64));
    }
}

/// Hours that are over may be folded already: the ledger says to fold them again.
async fn mark_late(context: &Context, job: &Job, stop: &CancellationToken) -> Result<(), Stopped> {
    let now_us = now_us();
    let current = now_us.div_euclid(MICROS_PER_HOUR) as u32;
    let late: Vec<u32> = job.hours.iter().copied().filter(|h| *h < current).collect();
    if late.is_empty() {
        return Ok(());
    }
    metrics::late_hours(late.len());
    let store = &context.store;
    until_done("late hours", stop, || async {
        store.mark_late(&late, now_us).await
    })
    .await
}
