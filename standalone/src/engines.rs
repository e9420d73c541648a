//! The engines under us: started together, started again when they die.
//!
//! What always holds: an engine that ends by itself comes back on its data, its
//! port and its password, so that whoever holds its address need not be told;
//! one that does not come back ends the process, in order.

use std::path::{Path, PathBuf};
use std::time::Duration;

use sluice_engines::postgres::Durability;
use sluice_engines::{ClickHouse, EngineError, Postgres};
use sluice_service::admin::{Readiness, Signal};
use sluice_service::lifecycle::FailureReporter;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio_util::sync::CancellationToken;

const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Starts in a row that may fail.
const MAX_FAILURES: u32 = 3;

/// An engine that can be watched.
pub(crate) trait Engine: Send + Sized + 'static {
    /// For people.
    const NAME: &'static str;
    /// Name of the check that it runs; whether it answers is another's.
    const CHECK: &'static str;

    /// Starts it on its directory. Blocks.
    fn start(dir: &Path) -> Result<Self, EngineError>;

    /// Where it serves; the same after a restart, or those who hold it are lost.
    fn address(&self) -> String;

    /// Whether it has ended by itself.
    fn has_ended(&mut self) -> bool;
}

impl Engine for ClickHouse {
    const NAME: &'static str = "clickhouse";
    const CHECK: &'static str = "clickhouse-engine";

    fn start(dir: &Path) -> Result<Self, EngineError> {
        Self::start(dir)
    }

    fn address(&self) -> String {
        format!("{} {}", self.url(), self.password())
    }

    fn has_ended(&mut self) -> bool {
        Self::has_ended(self)
    }
}

impl Engine for Postgres {
    const NAME: &'static str = "postgres";
    const CHECK: &'static str = "postgres-engine";

    fn start(dir: &Path) -> Result<Self, EngineError> {
        Self::start(dir, Durability::Full)
    }

    fn address(&self) -> String {
        self.url()
    }

    fn has_ended(&mut self) -> bool {
        Self::has_ended(self)
    }
}

/// Starts an engine on `dir`.
pub(crate) async fn start<E: Engine>(dir: PathBuf) -> Result<E, EngineError> {
    let failed = |error: tokio::task::JoinError| EngineError::Run {
        engine: E::NAME,
        reason: error.to_string(),
    };
    spawn_blocking(move || E::start(&dir))
        .await
        .unwrap_or_else(|error| Err(failed(error)))
}

/// Keeps an engine running until `stop`, then stops it.
pub(crate) struct Keeper<E> {
    engine: E,
    dir: PathBuf,
    running: Signal,
    stop: CancellationToken,
}

impl<E: Engine> Keeper<E> {
    /// Begins to watch a running engine.
    pub(crate) fn watch(
        engine: E,
        dir: PathBuf,
        readiness: &Readiness,
        reporter: FailureReporter,
        stop: CancellationToken,
    ) -> JoinHandle<()> {
        let running = readiness.signal(E::CHECK);
        running.set(Ok(()));
        let keeper = Self {
            engine,
            dir,
            running,
            stop,
        };
        tokio::spawn(async move {
            if let Err(error) = keeper.run().await {
                reporter.report(E::NAME, &error);
            }
        })
    }

    async fn run(mut self) -> Result<(), EngineError> {
        loop {
            tokio::select! {
                () = self.stop.cancelled() => break,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            if self.engine.has_ended() {
                self = self.start_again().await?;
            }
        }
        // Stops it in order, which blocks.
        drop(spawn_blocking(move || drop(self.engine)).await);
        Ok(())
    }

    async fn start_again(self) -> Result<Self, EngineError> {
        tracing::warn!(engine = E::NAME, "the engine has ended; starting it again");
        self.running.set(Err("starting again".to_owned()));
        let address = self.engine.address();
        let engine = start_persistently::<E>(&self.dir).await?;
        if engine.address() != address {
            let reason = "another program has taken its port".to_owned();
            let engine = E::NAME;
            return Err(EngineError::Run { engine, reason });
        }
        self.running.set(Ok(()));
        Ok(Self { engine, ..self })
    }
}

async fn start_persistently<E: Engine>(dir: &Path) -> Result<E, EngineError> {
    let mut failures = 0;
    loop {
        match start(dir.to_owned()).await {
            Err(error) if failures < MAX_FAILURES => {
                failures += 1;
                tracing::warn!(engine = E::NAME, %error, "the engine does not start; trying again");
            }
            outcome => return outcome,
        }
    }
}
