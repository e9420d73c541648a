//! What every binary shares: configuration, logging, metrics, pools of Postgres,
//! the listener, the admin port and the order in which things stop.
//!
//! A binary's `main` reads in the order in which things happen:
//!
//! ```no_run
//! use std::process::ExitCode;
//! use clap::Parser as _;
//! use sluice_service::config::{self, ConfigArgs, ConfigReader};
//! use sluice_service::logging::{self, Format, LoggingConfig};
//!
//! #[derive(clap::Parser)]
//! #[command(version, about)]
//! struct Arguments {
//!     #[command(flatten)]
//!     config: ConfigArgs,
//! }
//!
//! struct Config {
//!     logging: LoggingConfig,
//! }
//!
//! impl Config {
//!     fn read(reader: &mut ConfigReader) -> Self {
//!         Self { logging: LoggingConfig::read(reader, Format::Json) }
//!     }
//! }
//!
//! fn main() -> ExitCode {
//!     let config = match config::load(&Arguments::parse().config, Config::read) {
//!         Ok(config) => config,
//!         Err(exit) => return exit,
//!     };
//!     logging::init(&config.logging);
//!     // Build what can fail, then `Lifecycle::run`.
//!     ExitCode::SUCCESS
//! }
//! ```

pub mod admin;
pub mod config;
pub mod lifecycle;
pub mod logging;
pub mod metrics;
pub mod open_files;
pub mod postgres;
pub mod proxies;
pub mod serve;
