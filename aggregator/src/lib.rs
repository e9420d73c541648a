//! Logs to ClickHouse, exactly once in effect.
//!
//! The path of an event: the [`driver`] thread reads frames from the log and
//! gives each partition's to its [`worker`], which decodes them into columns
//! ([`rows`]), cuts [`batch`]es and encodes them as Native blocks ([`native`]).
//! Flag evaluations ([`evaluations`]) and requests of the manifest endpoint
//! (`manifests`) come from logs of their own on the same path.
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
pub mod evaluations;
mod facts;
pub mod flag_maps;
pub mod fold;
mod health;
mod manifests;
pub mod metrics;
pub mod migrate;
pub mod native;
mod pipeline;
pub mod places;
pub mod progress;
pub mod projects;
mod retry;
pub mod rows;
mod send;
pub mod service;
pub mod store;
mod worker;

use std::sync::{Arc, Mutex};

use sluice_eventlog::{EventLog, LogError};
use sqlx::PgPool;
use thiserror::Error;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::batch::BatchLimits;
use crate::evaluations::Evaluations;
use crate::evaluations::contexts::Contexts;
use crate::fold::Folder;
use crate::fold::store::FoldStore;
use crate::health::Health;
use crate::manifests::Manifests;
use crate::pipeline::Pipeline;
use crate::progress::{Progress, ProgressBoard};
use crate::projects::ProjectDirectory;

/// Group whose positions in the log of health events are the aggregators'.
pub const GROUP: &str = "aggregator";
/// The same of flag evaluations. Of its own: a group that shares the partitions
/// of two topics moves them together.
pub const EVALUATIONS_GROUP: &str = "aggregator-evaluations";
/// The same of requests of the manifest endpoint.
pub const MANIFESTS_GROUP: &str = "aggregator-manifests";

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
#[derive(Clone)]
pub struct Parts {
    /// Frames of health events, of flag evaluations, or of manifest requests.
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
    facts: Kind,
}

/// What the frames of the log hold.
enum Kind {
    Health,
    Evaluations(Contexts),
    Manifests,
}

impl Aggregator {
    /// Of health events. Nothing runs yet.
    pub fn new(parts: Parts) -> Self {
        Self::of(Kind::Health, parts)
    }

    /// Of flag evaluations, whose contexts are kept in `postgres`. Nothing runs yet.
    pub fn evaluations(parts: Parts, postgres: PgPool) -> Self {
        Self::of(Kind::Evaluations(Contexts::new(postgres)), parts)
    }

    /// Of requests of the manifest endpoint. Nothing runs yet.
    pub fn manifests(parts: Parts) -> Self {
        Self::of(Kind::Manifests, parts)
    }

    fn of(facts: Kind, parts: Parts) -> Self {
        Self {
            parts,
            progress: Arc::default(),
            facts,
        }
    }

    /// Follows how far it is.
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// Runs until `stop`, then finishes what is in flight.
    pub async fn run(self, stop: CancellationToken) -> Result<(), AggregatorError> {
        let (parts, progress) = (self.parts, self.progress);
        match self.facts {
            Kind::Health => {
                let caps = Mutex::default();
                let folds = FoldStore::new(parts.clickhouse.clone());
                let opened = Pipeline::<Health>::open(parts, caps, Arc::clone(&progress), &stop);
                let Some(pipeline) = opened.await? else {
                    return Ok(());
                };
                let partitions = pipeline.partitions();
                let source = pipeline.source().to_owned();
                let folder = Folder::new(folds, source, partitions);
                let folds = tokio::spawn({
                    let stop = stop.clone();
                    async move { folder.run(&progress, stop).await }
                });
                let ended = pipeline.run(stop).await;
                // It ends with the token; a panic in it has been reported.
                let _ = folds.await;
                ended
            }
            Kind::Evaluations(contexts) => {
                let shared = evaluations::Shared::new(contexts);
                match Pipeline::<Evaluations>::open(parts, shared, progress, &stop).await? {
                    Some(pipeline) => pipeline.run(stop).await,
                    None => Ok(()),
                }
            }
            Kind::Manifests => {
                match Pipeline::<Manifests>::open(parts, (), progress, &stop).await? {
                    Some(pipeline) => pipeline.run(stop).await,
                    None => Ok(()),
                }
            }
        }
    }
}
