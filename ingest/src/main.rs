//! `sluice-ingest`: the edge as a process of its own.

use std::process::ExitCode;

use clap::Parser as _;
use sluice_ingest::config::Config;
use sluice_ingest::service;
use sluice_service::config::{self, ConfigArgs};
use sluice_service::logging;

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
    raise_open_files();
    match service::run(config).await {
        Ok(exit) => exit,
        Err(error) => {
            tracing::error!(error, "cannot run");
            ExitCode::FAILURE
        }
    }
}

/// As many open files as we may have: each connection is one, and the usual
/// limit of 1,024 is for programs that select(2).
fn raise_open_files() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}
