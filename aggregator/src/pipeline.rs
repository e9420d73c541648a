//! One log on its way into its raw table.

use std::sync::Arc;
use std::time::Duration;

use sluice_eventlog::{EventLog, LogError, LogReader};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::context::Context;
use crate::dead_letter::DeadLetterOffice;
use crate::driver::Driver;
use crate::facts::Facts;
use crate::progress::ProgressBoard;
use crate::retry::{Stopped, until_done};
use crate::store::Store;
use crate::{AggregatorError, Parts};

/// How often watermarks are stored while rows arrive, and otherwise.
const WATERMARKS_EVERY: Duration = Duration::from_secs(1);
const IDLE_WATERMARKS_EVERY: u32 = 10;

/// A log with its reader, and what its workers share.
pub(crate) struct Pipeline<F: Facts> {
    context: Arc<Context<F>>,
    log: Arc<dyn EventLog>,
    reader: Box<dyn LogReader>,
}

impl<F: Facts> Pipeline<F> {
    /// Opens the log, and waits for it for as long as it takes; nothing runs
    /// yet. `None` if it was stopped before.
    pub(crate) async fn open(
        parts: Parts,
        shared: F::Shared,
        progress: Arc<ProgressBoard>,
        stop: &CancellationToken,
    ) -> Result<Option<Self>, AggregatorError> {
        let Ok(reader) = open_reader(&parts.log, F::GROUP, stop).await else {
            return Ok(None);
        };
        let reader = reader?;
        let context = Context {
            source: format!("{}@{}", F::LOG, reader.incarnation()).into(),
            store: Store::new(parts.clickhouse, F::TABLE),
            projects: parts.projects,
            dead_letters: DeadLetterOffice::new(parts.dead_letters),
            progress,
            limits: parts.limits,
            shared,
        };
        Ok(Some(Self {
            context: Arc::new(context),
            log: parts.log,
            reader,
        }))
    }

    /// How many partitions the log has.
    pub(crate) fn partitions(&self) -> u32 {
        self.log.partitions()
    }

    /// Topic and incarnation of the log, as its rows name them.
    pub(crate) fn source(&self) -> &str {
        &self.context.source
    }

    /// Runs until `stop`, then finishes what is in flight.
    pub(crate) async fn run(self, stop: CancellationToken) -> Result<(), AggregatorError> {
        let watermarks = store_watermarks(Arc::clone(&self.context), stop.clone());
        let watermarks = tokio::spawn(watermarks);
        let runtime = Handle::current();
        let driver = Driver::new(self.context, self.log, self.reader, runtime, stop.clone());
        let ended = tokio::task::spawn_blocking(|| driver.run()).await;
        stop.cancel();
        // It ends with the token; a panic in it has been reported.
        let _ = watermarks.await;
        ended.unwrap_or_else(|e| Err(AggregatorError::Worker(e.to_string())))
    }
}

async fn open_reader(
    log: &Arc<dyn EventLog>,
    group: &'static str,
    stop: &CancellationToken,
) -> Result<Result<Box<dyn LogReader>, LogError>, Stopped> {
    until_done("log", stop, || {
        let log = Arc::clone(log);
        let opened = tokio::task::spawn_blocking(move || log.reader(group));
        async {
            match opened.await {
                Ok(Err(LogError::Unavailable(error))) => Err(error),
                Ok(done) => Ok(done),
                Err(panicked) => Ok(Err(LogError::Fatal(panicked.to_string()))),
            }
        }
    })
    .await
}

/// Stores the watermarks once a second while they move with new rows, and
/// every ten seconds while they move with the clock.
async fn store_watermarks<F: Facts>(context: Arc<Context<F>>, stop: CancellationToken) {
    let progress = context.progress.subscribe();
    let mut stored_inserts = 0;
    for tick in 0_u32.. {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(WATERMARKS_EVERY) => {}
        }
        let inserts = progress.borrow().inserts;
        let marks = context.progress.watermarks();
        if marks.is_empty() || (inserts == stored_inserts && tick % IDLE_WATERMARKS_EVERY != 0) {
            continue;
        }
        match context.store.put_watermarks(&context.source, &marks).await {
            Ok(()) => stored_inserts = inserts,
            Err(error) => tracing::warn!(%error, "watermarks were not stored; trying again"),
        }
    }
}
