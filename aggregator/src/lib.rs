//! Log to ClickHouse, exactly once in effect.
//!
//! The path of an event: the [`driver`] thread reads frames from the log and
//! gives each partition's to its [`worker`], which decodes them into columns
//! ([`rows`]), cuts [`batch`]es and encodes them as Native blocks ([`native`]).
//! A batch is sent ([`send`]) until ClickHouse has acknowledged it in the raw
//! table and in every view, under a token that names its place in the log;
//! then the position is committed. Beside that one aggregator folds what is
//! stored into the tables that reads use ([`fold`]).
//!
//! What always holds: each accepted event ends in exactly one counted outcome;
//! whatever is killed at whatever moment, each event is counted once
//! (docs/decisions/0011); nothing in the log can stop a partition.
//!
//! This crate decides nothing about metrics: what is stored and how it is
//! folded is described in `sluice_schema::clickhouse`.

mod assemble;
pub mod batch;
pub mod caps;
pub mod config;
mod context;
pub mod dead_letter;
mod driver;
pub mod flag_maps;
pub mod fold;
pub mod metrics;
pub mod migrate;
pub mod native;
pub mod progress;
pub mod projects;
mod retry;
pub mod rows;
mod send;
pub mod service;
pub mod store;
mod worker;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use sluice_eventlog::{EventLog, LogError, LogReader};
use thiserror::Error;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::batch::BatchLimits;
use crate::caps::Caps;
use crate::context::Context;
use crate::dead_letter::DeadLetterOffice;
use crate::driver::Driver;
use crate::fold::Folder;
use crate::fold::store::FoldStore;
use crate::progress::{Progress, ProgressBoard};
use crate::projects::ProjectDirectory;
use crate::retry::{Stopped, until_done};
use crate::store::Store;

/// Name of the group whose positions the log keeps.
pub const GROUP: &str = "aggregator";
/// How often watermarks are stored while rows arrive, and otherwise.
const WATERMARKS_EVERY: Duration = Duration::from_secs(1);
const IDLE_WATERMARKS_EVERY: u32 = 10;

/// Why an aggregator ended by itself.
#[derive(Debug, Error)]
pub enum AggregatorError {
    /// The log is damaged, or its reader is dead.
    #[error("the log failed: {0}")]
    Log(#[from] LogError),
    /// A part of the aggregator ended that should not have.
    #[error("the aggregator failed: {0}")]
    Worker(String),
}

/// What an aggregator works with.
pub struct Parts {
    /// Frames of health events.
    pub log: Arc<dyn EventLog>,
    /// Where what cannot become rows goes.
    pub dead_letters: Arc<dyn EventLog>,
    /// A client of the migrated database.
    pub clickhouse: clickhouse::Client,
    /// Resolves slugs that the edge could not.
    pub projects: Arc<dyn ProjectDirectory>,
    /// When batches are closed.
    pub limits: BatchLimits,
}

/// Moves a log into ClickHouse.
pub struct Aggregator {
    parts: Parts,
    progress: Arc<ProgressBoard>,
}

impl Aggregator {
    /// Nothing runs yet.
    pub fn new(parts: Parts) -> Self {
        Self {
            parts,
            progress: Arc::default(),
        }
    }

    /// Follows how far it is.
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// Runs until `stop`, then finishes what is in flight.
    pub async fn run(self, stop: CancellationToken) -> Result<(), AggregatorError> {
        let Ok(reader) = open_reader(&self.parts.log, &stop).await else {
            return Ok(());
        };
        let reader = reader?;
        let source = format!("health@{}", reader.incarnation());
        let folds = FoldStore::new(self.parts.clickhouse.clone());
        let folder = Folder::new(folds, source.clone(), self.parts.log.partitions());
        let context = Arc::new(Context {
            source: source.into(),
            store: Store::new(self.parts.clickhouse),
            projects: self.parts.projects,
            dead_letters: DeadLetterOffice::new(self.parts.dead_letters),
            progress: self.progress,
            limits: self.parts.limits,
            caps: Mutex::new(Caps::default()),
        });
        let watermarks = tokio::spawn(store_watermarks(Arc::clone(&context), stop.clone()));
        let folds = tokio::spawn({
            let (context, stop) = (Arc::clone(&context), stop.clone());
            async move { folder.run(&context.progress, stop).await }
        });
        let driver = Driver::new(
            context,
            self.parts.log,
            reader,
            Handle::current(),
            stop.clone(),
        );
        let ended = tokio::task::spawn_blocking(|| driver.run()).await;
        stop.cancel();
        // They end with the token; a panic in them has been reported.
        let _ = tokio::join!(watermarks, folds);
        ended.unwrap_or_else(|e| Err(AggregatorError::Worker(e.to_string())))
    }
}

/// Waits for the log for as long as it takes.
async fn open_reader(
    log: &Arc<dyn EventLog>,
    stop: &CancellationToken,
) -> Result<Result<Box<dyn LogReader>, LogError>, Stopped> {
    until_done("log", stop, || {
        let log = Arc::clone(log);
        let opened = tokio::task::spawn_blocking(move || log.reader(GROUP));
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
async fn store_watermarks(context: Arc<Context>, stop: CancellationToken) {
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
