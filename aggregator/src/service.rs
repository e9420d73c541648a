//! The aggregator as a process: migrate, run, stop in order.

use std::error::Error;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clickhouse::Client;
use sluice_eventlog::{EventLog, Health};
use sluice_service::admin::{self, Readiness};
use sluice_service::lifecycle::Lifecycle;
use sluice_service::postgres;
use sqlx::PgPool;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::batch::BatchLimits;
use crate::config::Config;
use crate::{Aggregator, Parts, metrics, migrate};

/// Each partition of evaluations has one short statement a second; slugs are rare.
const POSTGRES_CONNECTIONS: u32 = 8;
/// What is in flight gets this long to be acknowledged.
const FINISH: Duration = Duration::from_secs(20);
const LEAVE: Duration = Duration::from_secs(1);

/// The logs that the process works on.
pub struct Logs {
    /// Frames of health events.
    pub health: Arc<dyn EventLog>,
    /// Frames of flag evaluations.
    pub evaluations: Arc<dyn EventLog>,
    /// Frames of requests of the manifest endpoint.
    pub manifests: Arc<dyn EventLog>,
    /// Where what cannot become rows goes.
    pub dead_letters: Arc<dyn EventLog>,
}

/// Runs until a signal or a failure.
///
/// # Errors
/// Something that is needed from the start cannot be had; the text says what.
pub async fn run(config: Config, logs: Logs) -> Result<ExitCode, Box<dyn Error>> {
    let registry = sluice_service::metrics::install()?;
    metrics::describe();
    sluice_eventlog::metrics::describe();
    let readiness = Readiness::new();
    let migrated = readiness.signal("clickhouse");
    register_log(&readiness, "log", &logs.health);
    register_log(&readiness, "evaluations_log", &logs.evaluations);
    register_log(&readiness, "manifests_log", &logs.manifests);
    register_log(&readiness, "dead_letters", &logs.dead_letters);
    let listener = TcpListener::bind(config.admin.listen).await?;
    let admin = tokio::spawn(admin::serve(listener, registry, readiness.clone()));
    migrate::run(&config.clickhouse).await?;
    migrated.set(Ok(()));

    let postgres = postgres::pool(&config.postgres_url, POSTGRES_CONNECTIONS)?;
    let aggregators = aggregators(logs, &config.clickhouse.client(), &postgres);
    let stop = CancellationToken::new();
    let mut lifecycle = Lifecycle::new();
    let running = aggregators.map(|aggregator| spawn(aggregator, &stop, &lifecycle));
    lifecycle.stage("readiness", LEAVE, async move { readiness.stop() });
    lifecycle.stage("aggregator", FINISH, async move {
        stop.cancel();
        for running in running {
            // Its failure was reported where it happened.
            drop(running.await);
        }
    });
    lifecycle.stage("admin port", LEAVE, async move { admin.abort() });
    Ok(lifecycle.run().await?)
}

fn register_log(readiness: &Readiness, name: &'static str, log: &Arc<dyn EventLog>) {
    let log = Arc::clone(log);
    readiness.register(name, move || match log.health() {
        Health::Ready => Ok(()),
        Health::NotReady(reason) => Err(reason),
    });
}

/// One aggregator for each log of facts.
pub fn aggregators(logs: Logs, clickhouse: &Client, postgres: &PgPool) -> [Aggregator; 3] {
    let parts = |log| Parts {
        log,
        dead_letters: Arc::clone(&logs.dead_letters),
        clickhouse: clickhouse.clone(),
        projects: Arc::new(postgres.clone()),
        limits: BatchLimits::default(),
    };
    [
        Aggregator::new(parts(logs.health)),
        Aggregator::evaluations(parts(logs.evaluations), postgres.clone()),
        Aggregator::manifests(parts(logs.manifests)),
    ]
}

/// Runs an aggregator until the token; its failure stops the process in order.
pub fn spawn(
    aggregator: Aggregator,
    stop: &CancellationToken,
    lifecycle: &Lifecycle,
) -> JoinHandle<()> {
    let (stop, reporter) = (stop.clone(), lifecycle.failure_reporter());
    tokio::spawn(async move {
        if let Err(error) = aggregator.run(stop).await {
            reporter.report("aggregator", &error);
        }
    })
}
