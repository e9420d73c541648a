//! `sluice-api`: the API as a process of its own.

use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser as _;
use sluice_api::config::Config;
use sluice_api::network::Listening;
use sluice_api::service;
use sluice_schema::postgres::MIGRATOR;
use sluice_service::admin::{self, Readiness};
use sluice_service::config::{self, ConfigArgs};
use sluice_service::lifecycle::Lifecycle;
use sluice_service::serve::{self, Limits, Only};
use sluice_service::{logging, metrics, open_files};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Requests in flight get this long to finish.
const DRAIN: Duration = Duration::from_secs(20);
/// Beyond that, so that its end is the one that counts.
const SPARE: Duration = Duration::from_secs(1);
/// Time for load balancers to see that readiness is off.
const LEAVE: Duration = Duration::from_secs(5);

/// Management, flags and insights of Sluice.
#[derive(clap::Parser)]
#[command(version, about)]
struct Arguments {
    #[command(flatten)]
    config: ConfigArgs,
    /// Bring Postgres to this release's tables and exit.
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
    open_files::raise_limit();
    match run(config, arguments.migrate).await {
        Ok(exit) => exit,
        Err(error) => {
            tracing::error!(error, "cannot start");
            ExitCode::FAILURE
        }
    }
}

async fn run(config: Config, migrate_only: bool) -> Result<ExitCode, Box<dyn Error>> {
    if migrate_only {
        MIGRATOR.run(&config.postgres.pool()?).await?;
        return Ok(ExitCode::SUCCESS);
    }
    let metrics = metrics::install()?;
    let readiness = Readiness::new();
    let state = service::state(&config)?;
    let listener = TcpListener::bind(config.listen).await?;
    let admin_listener = TcpListener::bind(config.admin.listen).await?;
    tracing::info!(address = %listener.local_addr()?, "serving the API");

    let admin = tokio::spawn(admin::serve(admin_listener, metrics, readiness.clone()));
    let workers = tokio::spawn({
        let (state, readiness) = (state.clone(), readiness.clone());
        async move { service::run_workers(state, &readiness).await }
    });
    let closing = CancellationToken::new();
    let flags = state.flags.clone();
    let served = state.clone();
    let limits = Limits {
        proxies: config.proxies,
        grace: DRAIN,
        ..Limits::default()
    };
    let routes = Only(Listening(sluice_api::router(state)));
    let server = tokio::spawn(serve::serve(listener, routes, limits, closing.clone()));

    let mut lifecycle = Lifecycle::new();
    lifecycle.stage("readiness", LEAVE, async move { readiness.stop() });
    lifecycle.stage("requests", DRAIN + SPARE, async move {
        closing.cancel();
        // Flag streams would go on for as long as their devices do.
        flags.close();
        // A panic in it was reported where it happened.
        drop(server.await);
    });
    lifecycle.stage(
        "counts",
        LEAVE,
        async move { service::finish(&served).await },
    );
    lifecycle.stage("workers", LEAVE, async move {
        workers.abort();
        admin.abort();
    });
    Ok(lifecycle.run().await?)
}
