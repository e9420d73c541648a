//! `sluice-aggregator`: the aggregator as a process of its own.

use std::error::Error;
use std::process::ExitCode;
#[cfg(feature = "kafka")]
use std::sync::Arc;

use clap::Parser as _;
use sluice_aggregator::config::{Config, KafkaConfig};
use sluice_aggregator::migrate;
use sluice_aggregator::service::{self, Logs};
use sluice_service::config::{self, ConfigArgs};
use sluice_service::logging;

/// Moves Sluice's log into ClickHouse.
#[derive(clap::Parser)]
#[command(version, about)]
struct Arguments {
    #[command(flatten)]
    config: ConfigArgs,
    /// Bring ClickHouse to this release's tables and exit.
    #[arg(long)]
    migrate: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let config = match config::load(&arguments.config, Config::read) {
        Ok(config) => config,
        Err(exit) => return exit,
    };
    logging::init(&config.logging);
    match run(config, arguments.migrate).await {
        Ok(exit) => exit,
        Err(error) => {
            tracing::error!(error, "cannot run");
            ExitCode::FAILURE
        }
    }
}

async fn run(config: Config, migrate_only: bool) -> Result<ExitCode, Box<dyn Error>> {
    if migrate_only {
        migrate::run(&config.clickhouse).await?;
        return Ok(ExitCode::SUCCESS);
    }
    let logs = open_logs(&config.kafka)?;
    service::run(config, logs).await
}

/// The logs as they will be: Kafka need not be there yet.
#[cfg(feature = "kafka")]
fn open_logs(config: &KafkaConfig) -> Result<Logs, Box<dyn Error>> {
    use sluice_eventlog::kafka::KafkaLog;
    use sluice_eventlog::{kafka, topics};
    let log = |topic, partitions| {
        KafkaLog::open(kafka::KafkaConfig {
            partitions,
            instance_id: Some(config.instance_id.clone()),
            ..kafka::KafkaConfig::new(&config.brokers, topic)
        })
    };
    Ok(Logs {
        health: Arc::new(log(topics::HEALTH, config.partitions)?),
        evaluations: Arc::new(log(topics::EVALUATIONS, config.partitions)?),
        manifests: Arc::new(log(topics::MANIFESTS, config.partitions)?),
        dead_letters: Arc::new(log(topics::DEAD_LETTER, 1)?),
    })
}

#[cfg(not(feature = "kafka"))]
fn open_logs(_: &KafkaConfig) -> Result<Logs, Box<dyn Error>> {
    Err("this build has no Kafka backend".into())
}
