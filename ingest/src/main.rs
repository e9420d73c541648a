//! `sluice-ingest`: the edge as a process of its own.

use std::process::ExitCode;

use clap::Parser as _;
use sluice_ingest::config::Config;
use sluice_ingest::service;
use sluice_service::config::{self, ConfigArgs};
use sluice_service::{logging, open_files};

/// Takes what devices report and answers when it is durable.
#[derive(clap::Parser)]
#[command(version, about)]
struct Arguments {
    #[command(flatten)]
    config: ConfigArgs,
}

#[tokio::main]
async fn main() -> ExitCode {
    let config = match config::load(&Arguments::parse().config, Config::read) {
        Ok(config) => config,
        Err(exit) => return exit,
    };
    logging::init(&config.logging);
    open_files::raise_limit();
    match service::run(config).await {
        Ok(exit) => exit,
        Err(error) => {
            tracing::error!(error, "cannot run");
            ExitCode::FAILURE
        }
    }
}
