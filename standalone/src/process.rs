//! Everything, in the order in which it starts and stops.

use std::error::Error;
use std::fs::DirBuilder;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use sluice_api::demo::DemoCredentials;
use sluice_service::admin::{self, Readiness};
use sluice_service::lifecycle::Lifecycle;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::credentials::{self, Credentials};
use crate::engines::Keeper;
use crate::services::Services;
use crate::stores::{self, Engines};
use crate::welcome::Welcome;

/// Nobody balances load in front of one process: readiness needs no time to be seen.
const LEAVE: Duration = Duration::from_secs(1);
const STOP_ENGINES: Duration = Duration::from_secs(40);

/// Runs until a signal or a failure.
///
/// # Errors
/// Something that is needed from the start cannot be had; the text says what.
pub(crate) fn run(config: &Config) -> Result<ExitCode, Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(serve(config))
}

async fn serve(config: &Config) -> Result<ExitCode, Box<dyn Error>> {
    let registry = sluice_service::metrics::install()?;
    let readiness = Readiness::new();
    let started = readiness.signal("start");
    let listener = bind("SLUICE_LISTEN", config.listen).await?;
    let admin_listener = bind("SLUICE_ADMIN_LISTEN", config.admin.listen).await?;
    let urls = Urls::of(&listener, &admin_listener)?;
    let admin = tokio::spawn(admin::serve(admin_listener, registry, readiness.clone()));

    make_data_dir(&config.data_dir)?;
    let engines = Engines::start(&config.data_dir).await?;
    let demo = stores::prepare(&engines, &config.data_dir).await?;
    let credentials = credentials_of(urls, &engines, demo);
    let services = Services::build(config, &engines, &readiness).await?;

    let mut lifecycle = Lifecycle::new();
    lifecycle.stage("readiness", LEAVE, {
        let readiness = readiness.clone();
        async move { readiness.stop() }
    });
    services.serve(listener, &mut lifecycle);
    keep(engines, &config.data_dir, &readiness, &mut lifecycle);
    lifecycle.stage("admin port", LEAVE, async move { admin.abort() });

    credentials.write(&config.data_dir)?;
    started.set(Ok(()));
    welcome(&credentials, &config.data_dir);
    Ok(lifecycle.run().await?)
}

async fn bind(variable: &str, address: SocketAddr) -> Result<TcpListener, String> {
    TcpListener::bind(address).await.map_err(|error| {
        format!("cannot listen on {address}: {error}; choose another address with {variable}")
    })
}

/// Where we can be called.
struct Urls {
    base: String,
    admin: String,
}

impl Urls {
    fn of(listener: &TcpListener, admin: &TcpListener) -> std::io::Result<Self> {
        Ok(Self {
            base: format!("http://{}", reachable(listener.local_addr()?)),
            admin: format!("http://{}", reachable(admin.local_addr()?)),
        })
    }
}

/// What listens on every address is reached on loopback.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
    }
    address
}

/// Others may pass through: PostgreSQL's own user keeps its files in one of the
/// subdirectories. What is in them is each its owner's alone.
fn make_data_dir(dir: &Path) -> Result<(), String> {
    let made = DirBuilder::new().recursive(true).mode(0o711).create(dir);
    made.map_err(|error| format!("{}: {error}", dir.display()))
}

fn credentials_of(urls: Urls, engines: &Engines, demo: DemoCredentials) -> Credentials {
    Credentials {
        base_url: urls.base,
        project_slug: demo.project_slug,
        api_key: demo.api_key,
        admin_url: urls.admin,
        clickhouse: credentials::ClickHouse {
            url: engines.clickhouse.url(),
            database: stores::DATABASE.to_owned(),
            user: engines.clickhouse.user().to_owned(),
            password: engines.clickhouse.password().to_owned(),
        },
        postgres: credentials::Postgres {
            url: engines.postgres.url(),
        },
    }
}

/// Keeps the engines running until everything above them has stopped.
fn keep(engines: Engines, data_dir: &Path, readiness: &Readiness, lifecycle: &mut Lifecycle) {
    let stop = CancellationToken::new();
    let reporter = lifecycle.failure_reporter();
    let clickhouse = Keeper::watch(
        engines.clickhouse,
        stores::clickhouse_dir(data_dir),
        readiness,
        reporter.clone(),
        stop.clone(),
    );
    let postgres = Keeper::watch(
        engines.postgres,
        stores::postgres_dir(data_dir),
        readiness,
        reporter,
        stop.clone(),
    );
    lifecycle.stage("engines", STOP_ENGINES, async move {
        stop.cancel();
        // Each reports its failure itself.
        let _ = tokio::join!(clickhouse, postgres);
    });
}

/// For the person in front of it; scripts read the file.
#[allow(clippy::print_stdout, reason = "the one output of the program")]
fn welcome(credentials: &Credentials, data_dir: &Path) {
    let credentials_path = &Credentials::path(data_dir);
    println!(
        "{}",
        Welcome {
            credentials,
            credentials_path
        }
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_one_that_can_be_called() {
        let of = |text: &str| reachable(text.parse().unwrap()).to_string();
        assert_eq!(of("0.0.0.0:8080"), "127.0.0.1:8080");
        assert_eq!(of("127.0.0.1:1"), "127.0.0.1:1");
        assert_eq!(of("[::]:8080"), "127.0.0.1:8080");
    }
}
