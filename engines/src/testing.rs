//! Engines for tests: one server of a kind per test process, which ends with
//! the process, and an empty database per call; and a clock for promises that
//! are told in seconds.

use std::path::PathBuf;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use std::{fs, io, thread};

use sqlx::{Connection, Executor, PgConnection};

use crate::postgres::Durability;
use crate::{ClickHouse, EngineError, Postgres, file_error};

static CLICKHOUSE: LazyLock<Result<ClickHouse, EngineError>> =
    LazyLock::new(|| in_own_dir(ClickHouse::start_removing));
static POSTGRES: LazyLock<Result<Postgres, EngineError>> = LazyLock::new(|| {
    in_own_dir(|dir, remove| Postgres::start_removing(dir, Durability::None, remove))
});
static DATABASES: AtomicU32 = AtomicU32::new(0);

/// How often it is asked whether the machine lets us run.
const ASKED_EVERY: Duration = Duration::from_millis(5);
/// Usual even where nothing else runs.
const USUAL_LATENESS: Duration = Duration::from_millis(1);
static STARTED: LazyLock<Instant> = LazyLock::new(|| {
    thread::spawn(watch_the_machine);
    Instant::now()
});
static STALLED_US: AtomicU64 = AtomicU64::new(0);

/// A clock for promises that are told in seconds: it stands still while a busy
/// machine keeps a thread of ours from running.
pub fn machine_time() -> Duration {
    let elapsed = STARTED.elapsed();
    elapsed.saturating_sub(Duration::from_micros(STALLED_US.load(Ordering::Relaxed)))
}

fn watch_the_machine() {
    loop {
        let asleep = Instant::now();
        thread::sleep(ASKED_EVERY);
        let late = asleep
            .elapsed()
            .saturating_sub(ASKED_EVERY + USUAL_LATENESS);
        STALLED_US.fetch_add(late.as_micros() as u64, Ordering::Relaxed);
    }
}

/// An empty ClickHouse database.
#[derive(Clone, Debug)]
pub struct ClickHouseDatabase {
    /// Base address of the server.
    pub url: String,
    /// A user that may do everything.
    pub user: String,
    /// That user's password.
    pub password: String,
    /// Name of the database.
    pub database: String,
}

/// An empty ClickHouse database of this process's server.
///
/// # Panics
/// The server cannot be had; the text says why.
pub fn clickhouse() -> ClickHouseDatabase {
    let server = available(&CLICKHOUSE);
    let database = next_name();
    let made = server.execute(&format!("CREATE DATABASE {database}"));
    made.unwrap_or_else(|error| panic!("{error}"));
    ClickHouseDatabase {
        url: server.url(),
        user: server.user().to_owned(),
        password: server.password().to_owned(),
        database,
    }
}

/// The address of an empty database of this process's PostgreSQL server.
///
/// # Panics
/// The server cannot be had; the text says why.
pub fn postgres() -> String {
    let server = available(&POSTGRES);
    let database = next_name();
    let url = server.url();
    let statement = format!("create database {database}");
    // In a thread of its own, so that it can be called from async tests.
    let made = thread::spawn(move || execute(&url, &statement)).join();
    match made {
        Ok(Ok(())) => server.url_of(&database),
        Ok(Err(error)) => panic!("{error}"),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

fn execute(url: &str, statement: &str) -> Result<(), sqlx::Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut connection = PgConnection::connect(url).await?;
        connection.execute(statement).await?;
        connection.close().await
    })
}

fn available<S>(server: &'static Result<S, EngineError>) -> &'static S {
    server.as_ref().unwrap_or_else(|error| panic!("{error}"))
}

fn next_name() -> String {
    format!("test_{}", DATABASES.fetch_add(1, Ordering::Relaxed))
}

/// Starts a server on a directory which is removed when the server has ended.
fn in_own_dir<S>(
    start: impl FnOnce(&std::path::Path, Option<PathBuf>) -> Result<S, EngineError>,
) -> Result<S, EngineError> {
    let dir = temporary_dir().map_err(file_error(std::env::temp_dir()))?;
    start(&dir, Some(dir.clone()))
}

/// PostgreSQL's unprivileged user must be able to enter it.
fn temporary_dir() -> io::Result<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::Builder::new()
        .prefix("sluice-engine-")
        .permissions(fs::Permissions::from_mode(0o755))
        .tempdir()?;
    Ok(dir.keep())
}
