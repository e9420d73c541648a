//! What is left in ClickHouse of projects that are deleted goes, too
//! (telemetry.md §9). Nobody can read it any more: it is about space, and about
//! a promise.
//!
//! What always holds: only rows of numbers that Postgres has as deleted are
//! touched, and a project's number is never used again. A project is looked at
//! once a day for [`LATE`], because what devices had sent may still be in the
//! log, or on the disk of an edge, when its project goes.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use clickhouse::Client;
use sluice_schema::id::ProjectId;
use sqlx::PgConnection;
use tokio::time::{MissedTickBehavior, interval};

use crate::ApiState;
use crate::error::{ApiError, ApiResult};
use crate::insights::reader::ReadError;

const TRY_EVERY: Duration = Duration::from_mins(10);
const LOOK_EVERY: TimeDelta = TimeDelta::hours(20);
/// Longer than logs and spools keep what nobody has read.
const LATE: TimeDelta = TimeDelta::days(8);
/// All that holds rows of projects. How slugs were resolved stays, for its 31
/// days: what is read again from the log must come out the same.
const TABLES: &str = "SELECT c.table FROM system.columns AS c \
     INNER JOIN system.tables AS t ON t.database = c.database AND t.name = c.table \
     WHERE c.database = currentDatabase() AND c.name = 'project_id' \
       AND t.engine LIKE '%MergeTree' AND c.table != 'resolved_slugs' ORDER BY c.table";

/// Removes what is left, for ever. A store that is away is tried again.
pub(crate) async fn keep_purging(state: &ApiState) {
    let mut ticks = interval(TRY_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Err(error) = purge_once(state).await {
            tracing::warn!(cause = ?error, "cannot remove what deleted projects have left yet");
        }
    }
}

/// Removes what is left of each project that is due; how many were. Of several
/// processes each takes another.
pub async fn purge_once(state: &ApiState) -> ApiResult<u64> {
    let now = state.clock.now();
    let mut looked_at = 0;
    loop {
        let mut tx = state.postgres.begin().await?;
        let Some(project) = take_due(&mut tx, now).await? else {
            return Ok(looked_at);
        };
        let tables = match remove(&state.clickhouse, project).await {
            Ok(tables) => tables,
            Err(error) => {
                // Who drops a transaction may hold its rows for a while yet.
                tx.rollback().await?;
                return Err(ApiError::from(ReadError::from(error)));
            }
        };
        tracing::info!(%project, tables, "removed what a deleted project had left");
        looked(&mut tx, project, now).await?;
        tx.commit().await?;
        looked_at += 1;
    }
}

async fn take_due(
    tx: &mut PgConnection,
    now: DateTime<Utc>,
) -> Result<Option<ProjectId>, sqlx::Error> {
    let due: Option<i64> = sqlx::query_scalar(
        "select project_id from deleted_projects
         where purged_at is null or purged_at <= $1
         order by purged_at nulls first limit 1 for update skip locked",
    )
    .bind(now - LOOK_EVERY)
    .fetch_optional(tx)
    .await?;
    Ok(due.map(ProjectId))
}

/// It is looked at again tomorrow, or never.
async fn looked(
    tx: &mut PgConnection,
    project: ProjectId,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    sqlx::query("update deleted_projects set purged_at = $2 where project_id = $1")
        .bind(project.0)
        .bind(now)
        .execute(&mut *tx)
        .await?;
    sqlx::query("delete from deleted_projects where project_id = $1 and deleted_at <= $2")
        .bind(project.0)
        .bind(now - LATE)
        .execute(tx)
        .await?;
    Ok(())
}

/// Tells the store to remove a project's rows; of how many tables. It does so by
/// itself then, also after a restart.
async fn remove(client: &Client, project: ProjectId) -> Result<u64, clickhouse::error::Error> {
    let tables: Vec<String> = client.query(TABLES).fetch_all().await?;
    let mut found = 0;
    for table in tables {
        let any =
            format!("SELECT count() FROM (SELECT 1 FROM {table} WHERE project_id = ? LIMIT 1)");
        let any: u64 = client.query(&any).bind(project.0).fetch_one().await?;
        if any > 0 {
            let delete = format!("ALTER TABLE {table} DELETE WHERE project_id = ?");
            client.query(&delete).bind(project.0).execute().await?;
            found += 1;
        }
    }
    Ok(found)
}
