//! Flag evaluations: their rows, and after them the contexts that they were
//! made for.
//!
//! Rows hold keys and values as reported, whether there is such a flag or not:
//! that is decided when counts are read. Contexts are rows of Postgres, where
//! flags are known, so entries of unknown flags are left out of them here.

pub mod caps;
pub mod contexts;
pub mod reports;
pub mod rows;

use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use sluice_eventlog::Partition;
use sluice_schema::frame::ContentKind;
use sluice_schema::wire::{Refusal, Scratch, evaluations};
use tokio_util::sync::CancellationToken;

use self::caps::{Over, PairCaps};
use self::contexts::Contexts;
use self::reports::Report;
use self::rows::EvaluationRows;
use crate::batch::BatchId;
use crate::context::Context;
use crate::facts::Facts;
use crate::metrics;
use crate::places::Origin;
use crate::retry::{Stopped, until_done};
use crate::send::Job;

/// What the workers of evaluations share.
pub(crate) struct Shared {
    contexts: Contexts,
    caps: Mutex<PairCaps>,
}

impl Shared {
    pub(crate) fn new(contexts: Contexts) -> Self {
        Self {
            contexts,
            caps: Mutex::default(),
        }
    }

    fn caps(&self) -> MutexGuard<'_, PairCaps> {
        // The register is whole between any two of its calls.
        self.caps.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The open batch of a partition of flag evaluations.
#[derive(Default)]
pub(crate) struct Evaluations {
    rows: EvaluationRows,
    reports: Vec<Report>,
    report_bytes: usize,
}

impl Facts for Evaluations {
    const CONTENT: ContentKind = ContentKind::Evaluations;
    const LOG: &'static str = "evaluations";
    const GROUP: &'static str = crate::EVALUATIONS_GROUP;
    const TABLE: &'static str = "flag_evaluations";
    type Shared = Shared;
    type Beside = Vec<Report>;

    fn add(
        &mut self,
        body: &[u8],
        scratch: &mut Scratch,
        origin: Option<&Origin>,
    ) -> Result<u32, Refusal> {
        let batch = evaluations::decode(body, scratch)?;
        if let Some(origin) = origin {
            self.rows.push(origin, &batch);
            if let Some(report) = Report::of(origin, &batch) {
                self.report_bytes += report.bytes();
                self.reports.push(report);
            }
        }
        Ok(batch.kept())
    }

    fn len(&self) -> usize {
        self.rows.len()
    }

    fn bytes(&self) -> usize {
        self.rows.bytes() + self.report_bytes
    }

    fn received_us(&self) -> Option<(i64, i64)> {
        self.rows.received_us()
    }

    async fn close(
        &mut self,
        context: &Context<Self>,
        stop: &CancellationToken,
    ) -> Result<Vec<Report>, Stopped> {
        let over = rule(context, &self.rows, stop).await?;
        self.rows.apply(&over);
        self.report_bytes = 0;
        Ok(std::mem::take(&mut self.reports))
    }

    fn encode(&self, id: &BatchId) -> Bytes {
        self.rows.encode(id)
    }

    fn clear(&mut self) {
        self.rows.clear();
        self.reports.clear();
        self.report_bytes = 0;
    }

    async fn store_after(
        context: &Context<Self>,
        job: &Job<Self>,
        stop: &CancellationToken,
    ) -> Result<(), Stopped> {
        if job.beside.is_empty() {
            return Ok(());
        }
        let pace = context.limits.interval;
        until_done("contexts", stop, || {
            context.shared.contexts.count(&job.id, &job.beside, pace)
        })
        .await
    }

    fn revoked(shared: &Shared, partition: Partition) {
        shared.contexts.forget(partition);
        shared.caps().forget();
    }
}

/// What of a batch is over the caps of its hours.
async fn rule(
    context: &Context<Evaluations>,
    rows: &EvaluationRows,
    stop: &CancellationToken,
) -> Result<Over, Stopped> {
    let pairs = rows.pairs();
    let unknown = context.shared.caps().unknown(&pairs);
    let learnt = until_done("caps", stop, || context.store.counted_pairs(&unknown)).await?;
    let mut caps = context.shared.caps();
    for (slot, known) in learnt {
        caps.learn(slot, &known);
    }
    let over = caps.rule(rows, &pairs);
    metrics::over_cap(over.values().map(|pairs| pairs.len()).sum());
    Ok(over)
}
