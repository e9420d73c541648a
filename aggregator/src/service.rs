//! The aggregator as a process: migrate, run, stop in order.

use std::error::Error;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use sluice_eventlog::{EventLog, Health};
use sluice_service::admin::{self, Readiness};
use sluice_service::lifecycle::Lifecycle;
use sqlx::postgres::PgPoolOptions;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::batch::BatchLimits;
use crate::config::Config;
use crate::{Aggregator, Parts, metrics, migrate};

/// Slugs are rare, and answers are remembered.
const POSTGRES_CONNECTIONS: u32 = 2;
const POSTGRES_TIMEOUT: Duration = Duration::from_secs(5);
/// What is in flight gets this long to be acknowledged.
const FINISH: Duration = Duration::from_secs(20);
const LEAVE: Duration = Duration::from_secs(1);

/// The logs that the process works on.
pub struct Logs {
    /// Frames of health events.
    pub health: Arc<dyn EventLog>,
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
    register_log(&readiness, "dead_letters", &logs.dead_letters);
    let listener = TcpListener::bind(config.admin.listen).await?;
    let admin = tokio::spawn(admin::serve(listener, registry, readiness.clone()));
    migrate::run(&config.clickhouse).await?;
    migrated.set(Ok(()));

    let postgres = PgPoolOptions::new()
        .max_connections(POSTGRES_CONNECTIONS)
        .acquire_timeout(POSTGRES_TIMEOUT)
        .connect_lazy(config.postgres_url.expose())?;
    let aggregator = Aggregator::new(Parts {
        log: logs.health,
        dead_letters: logs.dead_letters,
        clickhouse: config.clickhouse.client(),
        projects: Arc::new(postgres),
        limits: BatchLimits::default(),
    });
    let stop = CancellationToken::new();
    let mut lifecycle = Lifecycle::new();
    let reporter = lifecycle.failure_reporter();
    let running = tokio::spawn({
        let stop = stop.clone();
        async move {
            if let Err(error) = aggregator.run(stop).await {
                reporter.report("aggregator", &error);
            }
        }
    });
    lifecycle.stage("readiness", LEAVE, async move { readiness.stop() });
    lifecycle.stage("aggregator", FINISH, async move {
        stop.cancel();
        // Its failure was reported where it happened.
        drop(running.await);
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
