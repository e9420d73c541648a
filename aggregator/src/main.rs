//! `sluice-aggregator`: the aggregator as a process of its own.

use std::error::Error;
use std::process::ExitCode;

use clap::Parser as _;
use sluice_aggregator::config::Config;
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
    let logs = open_logs(&config.kafka_brokers)?;
    service::run(config, logs).await
}

/// The logs on `brokers`.
fn open_logs(brokers: &str) -> Result<Logs, String> {
    Err(format!(
        "this build cannot read a log from {brokers}: it has no Kafka backend"
    ))
}
