//! `sluice`: the whole of Sluice in one process on embedded engines.
//!
//! The same code as the services, composed: what the edge accepts goes through
//! the embedded log to the aggregator and into a real ClickHouse; the API
//! serves reads and management over it and a real PostgreSQL. Devices and
//! people call one port. Nothing here decides anything; it only wires.

mod config;
mod credentials;
mod engines;
mod process;
mod services;
mod stores;
mod welcome;

use std::process::ExitCode;

use clap::Parser as _;
use sluice_service::config::{self as configuration, ConfigArgs};
use sluice_service::{logging, open_files};

use crate::config::Config;

/// All of Sluice in one process: `sluice` starts everything it needs.
#[derive(clap::Parser)]
#[command(version, about)]
struct Arguments {
    #[command(flatten)]
    config: ConfigArgs,
}

fn main() -> ExitCode {
    // Engines run under a copy of this executable.
    sluice_engines::run_child_if_asked();
    let config = match configuration::load(&Arguments::parse().config, Config::read) {
        Ok(config) => config,
        Err(exit) => return exit,
    };
    logging::init(&config.logging);
    open_files::raise_limit();
    match process::run(&config) {
        Ok(exit) => exit,
        Err(error) => {
            tracing::error!(error, "cannot run");
            ExitCode::FAILURE
        }
    }
}
