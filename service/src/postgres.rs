//! How a process reaches Postgres: every wait for a connection is bounded, and
//! none is lost to a server that has gone silent.
//!
//! A pool does not bound the wait for an answer. Whoever asks does.

use std::str::FromStr as _;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use sqlx::{Connection as _, PgConnection, PgPool};
use tokio::time::timeout;

use crate::config::{ConfigReader, Secret};

const URL: &str = "SLUICE_POSTGRES_URL";
/// A request that gets no connection in this time answers 503 (management.md: within 2 s).
const ACQUIRE_TIMEOUT: Duration = Duration::from_millis(1500);
/// A connection that does not answer in this time is closed.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(2);

/// Reads `SLUICE_POSTGRES_URL`: `postgres://user:password@host:port/database`. Required.
pub fn read_url(reader: &mut ConfigReader) -> Secret {
    let url = reader.required_secret(URL);
    if !url.expose().is_empty() && PgConnectOptions::from_str(url.expose()).is_err() {
        reader.problem(URL, "is not a postgres:// address");
    }
    url
}

/// A pool that connects when it is first used.
///
/// # Errors
/// The address is none.
pub fn pool(url: &Secret, max_connections: u32) -> Result<PgPool, sqlx::Error> {
    PgPoolOptions::new()
        .max_connections(max_connections)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .after_release(|connection, _| Box::pin(answers(connection)))
        .connect_lazy(url.expose())
}

/// Whether a connection may go back to the pool. What was left waiting on a
/// server that is gone would otherwise take its place in the pool for good.
async fn answers(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    match timeout(RELEASE_TIMEOUT, connection.ping()).await {
        Ok(answer) => answer.map(|()| true),
        Err(_) => Err(sqlx::Error::PoolTimedOut),
    }
}

/// A listener on a connection of its own. In a shared pool it would keep its
/// place for good when it ends while Postgres is silent: it says good-bye first.
///
/// # Errors
/// Postgres is away.
pub async fn listener(pool: &PgPool) -> Result<PgListener, sqlx::Error> {
    let own = PgPoolOptions::new()
        .max_connections(1)
        .max_lifetime(None)
        .idle_timeout(None)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .connect_lazy_with(pool.connect_options().as_ref().clone());
    PgListener::connect_with(&own).await
}
