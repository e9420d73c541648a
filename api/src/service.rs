//! The API as something that runs: state, migrations, background work.

use std::time::Duration;

use sluice_schema::postgres::MIGRATOR;
use sluice_service::admin::{Readiness, Signal};
use sqlx::PgPool;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use crate::config::Config;
use crate::insights::anomalies;
use crate::storage::{Storage, StorageError};
use crate::{ApiState, auth, releases, segments, webhooks};

const MIGRATION_RETRY: Duration = Duration::from_secs(1);
const PING_EVERY: Duration = Duration::from_secs(1);
/// Longer than a connection is waited for, whose failure says more.
const PING_PATIENCE: Duration = Duration::from_secs(2);
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
/// removes files that nothing owns, watches for anomalies.
pub async fn run_workers(state: ApiState, readiness: &Readiness) {
    let postgres = readiness.signal("postgres");
    migrate(&state.postgres, &postgres).await;
    let flags = state.flags.clone();
    tokio::join!(
        watch(&state.postgres, &postgres),
        purge(&state),
        flags.follow(),
        segments::keep_estimating(&state),
        webhooks::deliver_forever(&state),
        releases::keep_removing(&state),
        anomalies::keep_watching(&state),
        state.bulk_counts.keep_storing(&state.clickhouse),
        state.flag_callers.keep_storing(&state.clickhouse)
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
}

/// Tries until it succeeds.
async fn migrate(pool: &PgPool, signal: &Signal) {
    while let Err(error) = MIGRATOR.run(pool).await {
        tracing::warn!(%error, "cannot migrate Postgres yet");
        signal.set(Err(format!("not migrated: {error}")));
        sleep(MIGRATION_RETRY).await;
    }
    signal.set(Ok(()));
}

async fn watch(pool: &PgPool, signal: &Signal) {
    let mut ticks = interval(PING_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let answer = timeout(PING_PATIENCE, sqlx::query("select 1").execute(pool)).await;
        let answer = answer.map_err(|_| "does not answer".to_owned());
        signal.set(answer.and_then(|a| a.map(drop).map_err(|error| error.to_string())));
    }
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

fn report(what: &str, purged: Result<u64, sqlx::Error>) {
    match purged {
        Ok(0) => {}
        Ok(purged) => tracing::info!(purged, what, "removed what had expired"),
        Err(error) => tracing::warn!(%error, what, "cannot remove what has expired"),
    }
}
