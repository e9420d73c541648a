//! The services, composed: the edge, the aggregator and the API over one set of
//! stores, behind one port.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sluice_aggregator::Aggregator;
use sluice_aggregator::service::{self as aggregation, Logs};
use sluice_api::network::Listening;
use sluice_api::{ApiState, service};
use sluice_eventlog::EventLog;
use sluice_eventlog::committer::CommitterConfig;
use sluice_eventlog::embedded::{EmbeddedConfig, EmbeddedLog};
use sluice_ingest::Edge;
use sluice_ingest::directory::Directory;
use sluice_service::admin::Readiness;
use sluice_service::lifecycle::Lifecycle;
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::stores::Engines;

/// Requests in flight get this long to finish.
const DRAIN: Duration = Duration::from_secs(25);
/// What waits for the log gets this long to be durable.
const FLUSH: Duration = Duration::from_secs(10);
/// What is read of the log gets this long to be stored.
const FINISH: Duration = Duration::from_secs(20);
const LEAVE: Duration = Duration::from_secs(1);

/// What devices send, until it is aggregated.
fn open_logs(dir: &Path) -> Result<Logs, sluice_eventlog::LogError> {
    let open = |name: &str| {
        let log = EmbeddedLog::open(&dir.join(name), EmbeddedConfig::default())?;
        Ok(Arc::new(log) as Arc<dyn EventLog>)
    };
    Ok(Logs {
        health: open("health")?,
        evaluations: open("evaluations")?,
        manifests: open("manifests")?,
        dead_letters: open("dead-letters")?,
    })
}

/// What runs in this process, between its one port and its engines.
pub(crate) struct Services {
    edge: Arc<Edge>,
    directory: Arc<Directory>,
    aggregators: [Aggregator; 3],
    api: ApiState,
    workers: JoinHandle<()>,
}

impl Services {
    /// Opens the logs and builds everything over them and the engines.
    pub(crate) async fn build(
        config: &Config,
        engines: &Engines,
        readiness: &Readiness,
    ) -> Result<Self, Box<dyn Error>> {
        sluice_eventlog::metrics::describe();
        sluice_aggregator::metrics::describe();
        let log_dir = config.data_dir.join("log");
        let logs = spawn_blocking(move || open_logs(&log_dir)).await??;
        let api = service::state(&config.api(engines))?;
        let directory = Arc::new(Directory::open(api.postgres.clone(), None));
        directory.load().await?;
        let edge = Edge::start(sluice_ingest::Parts {
            directory: Arc::clone(&directory),
            health: Arc::clone(&logs.health),
            evaluations: Arc::clone(&logs.evaluations),
            committer: CommitterConfig {
                // The embedded log syncs while it is called.
                in_flight: 1,
                ..CommitterConfig::default()
            },
            limits: config.edge.clone(),
        })?;
        edge.register(readiness);
        let clickhouse = engines.clickhouse_config().client();
        let aggregators = aggregation::aggregators(logs, &clickhouse, &api.postgres);
        let workers = tokio::spawn({
            let (api, readiness) = (api.clone(), readiness.clone());
            async move { service::run_workers(api, &readiness).await }
        });
        Ok(Self {
            edge,
            directory,
            aggregators,
            api,
            workers,
        })
    }

    /// Serves on `listener`, and registers how it all stops: from the outside in.
    pub(crate) fn serve(self, listener: TcpListener, lifecycle: &mut Lifecycle) {
        let closing = CancellationToken::new();
        let flags = self.api.flags.clone();
        let api = self.api.clone();
        let rest = Listening(sluice_api::router(self.api));
        let serving = sluice_ingest::serve(listener, Arc::clone(&self.edge), rest, closing.clone());
        let serving = tokio::spawn(serving);
        let following = tokio::spawn({
            let (directory, closing) = (self.directory, closing.clone());
            async move { directory.follow(closing).await }
        });
        let stop_aggregating = CancellationToken::new();
        let [health, evaluations, manifests] = self
            .aggregators
            .map(|aggregator| aggregation::spawn(aggregator, &stop_aggregating, lifecycle));

        lifecycle.stage("requests", DRAIN, async move {
            closing.cancel();
            // Flag streams would go on for as long as their devices do.
            flags.close();
            // What they end with is of no use to a process that ends.
            let _ = tokio::join!(serving, following);
        });
        lifecycle.stage("edge", FLUSH, async move {
            drop(spawn_blocking(move || self.edge.close()).await);
        });
        lifecycle.stage("aggregator", FINISH, async move {
            stop_aggregating.cancel();
            let _ = tokio::join!(health, evaluations, manifests);
        });
        lifecycle.stage("counts", LEAVE, async move { service::finish(&api).await });
        lifecycle.stage("workers", LEAVE, async move { self.workers.abort() });
    }
}
