//! The API as something that runs: state, migrations, background work.

use std::time::Duration;

use sluice_schema::postgres::{MIGRATOR, UsedKeys};
use sluice_service::admin::{Readiness, Signal};
use sqlx::migrate::MigrateError;
use sqlx::{Connection as _, PgConnection, PgPool};
use tokio::time::{interval, sleep};

use crate::config::Config;
use crate::insights::{anomalies, purge as leftovers};
use crate::storage::{Storage, StorageError};
use crate::{ApiState, auth, releases, segments, webhooks};

const MIGRATION_RETRY: Duration = Duration::from_secs(1);
const PURGE_EVERY: Duration = Duration::from_hours(1);

/// Why there can be no state.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The address of Postgres is none.
    #[error("postgres: {0}")]
    Postgres(#[from] sqlx::Error),
    /// The storage for files cannot be used.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// State for [`crate::router`], from a configuration. Connects to nothing yet,
/// but takes the storage directory and empties its staging.
pub fn state(config: &Config) -> Result<ApiState, StateError> {
    let postgres = config.postgres.pool()?;
    let state = ApiState::new(postgres, config.clickhouse.client(), config.policy);
    Ok(state.with_storage(Storage::open(&config.storage)?))
}

/// All that goes on behind the routes, until it is dropped: migrates Postgres,
/// tells whether it is there, purges what has expired, delivers webhooks,
/// removes files that nothing owns, watches for anomalies,
/// removes what deleted projects have left.
pub async fn run_workers(state: ApiState, readiness: &Readiness) {
    let postgres = readiness.signal("postgres");
    let migrations = readiness.signal("migrations");
    tokio::join!(
        state.heartbeat.follow(&state.postgres, &postgres),
        work_over_postgres(&state, &migrations),
        state.bulk_counts.keep_storing(&state.clickhouse),
        state.flags.keep_asking(&state.clickhouse),
        state.flag_callers.keep_storing(&state.clickhouse)
    );
}

/// What dies at any point goes on from what is stored, so that an outage may
/// end all of it.
async fn work_over_postgres(state: &ApiState, migrations: &Signal) {
    let heartbeat = &state.heartbeat;
    while heartbeat
        .while_here(migrate(&state.postgres, migrations))
        .await
        .is_none()
    {}
    // All of the work is one large future; once in a while it begins anew.
    while heartbeat
        .while_here(Box::pin(work_forever(state)))
        .await
        .is_none()
    {}
}

async fn work_forever(state: &ApiState) {
    tokio::join!(
        purge(state),
        keep_storing_used_keys(state),
        state.flags.clone().follow(),
        segments::keep_estimating(state),
        webhooks::deliver_forever(state),
        releases::keep_removing(state),
        Box::pin(anomalies::keep_watching(state)),
        Box::pin(leftovers::keep_purging(state)),
    );
}

/// Stores what this process has only in memory: part of stopping to serve.
pub async fn finish(state: &ApiState) {
    if let Err(error) = state.bulk_counts.store(&state.clickhouse).await {
        tracing::warn!(%error, "counts of bulk evaluations are lost");
    }
    if let Err(error) = state.flag_callers.store(&state.clickhouse).await {
        tracing::warn!(%error, "devices that called flag routes are lost");
    }
    // Last: Postgres may be away, and this matters least.
    store_used_keys(state).await;
}

/// Tries until it succeeds.
async fn migrate(pool: &PgPool, signal: &Signal) {
    while let Err(error) = try_to_migrate(pool).await {
        tracing::warn!(%error, "cannot migrate Postgres yet");
        signal.set(Err(error.to_string()));
        sleep(MIGRATION_RETRY).await;
    }
    signal.set(Ok(()));
}

/// On a connection of its own: the lock on migrations ends with it.
async fn try_to_migrate(pool: &PgPool) -> Result<(), MigrateError> {
    let mut connection = PgConnection::connect_with(&pool.connect_options()).await?;
    MIGRATOR.run_direct(&mut connection).await
}

async fn purge(state: &ApiState) {
    let mut ticks = interval(PURGE_EVERY);
    loop {
        ticks.tick().await;
        let (pool, now) = (&state.postgres, state.clock.now());
        report(
            "expired sessions",
            auth::store::purge_sessions(pool, now).await,
        );
        report("old webhook deliveries", webhooks::purge(pool, now).await);
        report("old anomalies", anomalies::purge(pool, now).await);
    }
}

async fn keep_storing_used_keys(state: &ApiState) {
    loop {
        sleep(UsedKeys::STORE_EVERY).await;
        store_used_keys(state).await;
    }
}

async fn store_used_keys(state: &ApiState) {
    let stored = state.used_keys.store(&state.postgres, state.clock.now());
    if let Err(error) = stored.await {
        tracing::warn!(%error, "cannot store which API keys were used");
    }
}

fn report(what: &str, purged: Result<u64, sqlx::Error>) {
    match purged {
        Ok(0) => {}
        Ok(purged) => tracing::info!(purged, what, "removed what had expired"),
        Err(error) => tracing::warn!(%error, what, "cannot remove what has expired"),
    }
}
