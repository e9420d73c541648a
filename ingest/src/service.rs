//! The edge as a process: start, serve, stop in order.

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use sluice_eventlog::EventLog;
use sluice_eventlog::committer::CommitterConfig;
use sluice_eventlog::kafka::{KafkaConfig, KafkaLog};
use sluice_eventlog::spool::{SpoolConfig, SpooledLog};
use sluice_eventlog::{LogError, topics};
use sluice_service::admin::{self, Readiness};
use sluice_service::lifecycle::Lifecycle;
use sluice_service::postgres;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::directory::Directory;
use crate::{Edge, NotFound, Parts, serve};

/// One reads, the others ask; the one that listens is not of the pool.
const POSTGRES_CONNECTIONS: u32 = 5;
/// The directory's copy, beside the spools.
const COPY: &str = "directory.json";
/// Time for load balancers to see that readiness is off.
const LEAVE: Duration = Duration::from_secs(5);
/// What waits for the log gets this long: longer than the log takes to answer.
const FLUSH: Duration = Duration::from_secs(20);
/// Beyond the edge's own grace, so that its end is the one that counts.
const SPARE: Duration = Duration::from_secs(1);
/// Of the spools' bytes, the evaluations' share is one in so many.
const EVALUATIONS_SHARE: u64 = 8;

/// Where requests go.
pub struct Logs {
    /// Health events.
    pub health: Arc<dyn EventLog>,
    /// Flag evaluations.
    pub evaluations: Arc<dyn EventLog>,
}

impl Logs {
    /// Kafka, with a spool in front of each topic. Brokers need not be reachable.
    pub fn open(config: &Config) -> Result<Self, LogError> {
        let of_evaluations = config.spool_max_bytes / EVALUATIONS_SHARE;
        let open = |topic, name: &str, max_bytes| {
            let kafka = KafkaLog::open(KafkaConfig {
                partitions: config.kafka_partitions,
                ..KafkaConfig::new(&config.kafka_brokers, topic)
            })?;
            let dir = config.spool_dir.join(name);
            spooled(Arc::new(kafka), &dir, max_bytes)
        };
        Ok(Self {
            health: open(
                topics::HEALTH,
                "health",
                config.spool_max_bytes - of_evaluations,
            )?,
            evaluations: open(topics::EVALUATIONS, "evaluations", of_evaluations)?,
        })
    }
}

fn spooled(
    primary: Arc<dyn EventLog>,
    dir: &Path,
    max_bytes: u64,
) -> Result<Arc<dyn EventLog>, LogError> {
    let config = SpoolConfig {
        max_bytes,
        ..SpoolConfig::default()
    };
    Ok(Arc::new(SpooledLog::open(primary, dir, config)?))
}

/// Runs until a signal.
///
/// # Errors
/// Something that is needed from the start cannot be had; the text says what.
pub async fn run(config: Config) -> Result<ExitCode, Box<dyn Error>> {
    let registry = sluice_service::metrics::install()?;
    sluice_eventlog::metrics::describe();
    let readiness = Readiness::new();
    let postgres = postgres::pool(&config.postgres_url, POSTGRES_CONNECTIONS)?;
    let copy = config.spool_dir.join(COPY);
    let directory = Arc::new(Directory::open(postgres, Some(copy)));
    let logs = Logs::open(&config)?;
    let grace = config.limits.grace;
    let edge = Edge::start(Parts {
        directory: Arc::clone(&directory),
        health: logs.health,
        evaluations: logs.evaluations,
        committer: CommitterConfig::default(),
        limits: config.limits,
    })?;
    edge.register(&readiness);
    let listener = TcpListener::bind(config.listen).await?;
    let admin_listener = TcpListener::bind(config.admin.listen).await?;
    tracing::info!(address = %listener.local_addr()?, "serving the edge");

    let admin = tokio::spawn(admin::serve(admin_listener, registry, readiness.clone()));
    let (stop, leave) = (CancellationToken::new(), CancellationToken::new());
    let following = tokio::spawn({
        let leave = leave.clone();
        async move { directory.follow(leave).await }
    });
    let serving = tokio::spawn(serve(listener, Arc::clone(&edge), NotFound, stop.clone()));

    let mut lifecycle = Lifecycle::new();
    lifecycle.stage("readiness", LEAVE, async move { readiness.stop() });
    lifecycle.stage("requests", grace + SPARE, async move {
        stop.cancel();
        // A panic in it was reported where it happened.
        drop(serving.await);
    });
    lifecycle.stage("log", FLUSH, async move {
        drop(tokio::task::spawn_blocking(move || edge.close()).await);
    });
    lifecycle.stage("directory", LEAVE, async move {
        leave.cancel();
        drop(following.await);
        admin.abort();
    });
    Ok(lifecycle.run().await?)
}
