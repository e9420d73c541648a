//! Reads downloads and evidence of what devices run. Each statement names the
//! project; updates go by what devices call them, known here or not.

use std::collections::HashMap;

use clickhouse::Row;
use serde::Deserialize;
use sluice_schema::id::ProjectId;
use sqlx::PgPool;
use uuid::Uuid;

use super::TotalsByUpdate;
use super::model::{Adopted, FirstServed, KnownUpdate, Question, Served, Totals};
use crate::insights::reader::{ReadError, Reader, Statement};
use crate::insights::timeseries::model::Bucket;
use crate::insights::window::Window;

/// Distinct devices: exact to about 4,000, then within 1 %.
const DISTINCT: &str = "uniqCombined64If(17)";
/// Who somebody without a device id is: the device last seen with the client id
/// (`linked`), else the client (telemetry.md §8); 0 for nobody.
pub(in crate::insights) const OF_CLIENT: &str = "if(linked != 0, linked, client)";
/// The order of evidence as one number, because comparing tuples costs ten times
/// as much: its microsecond, then what was served, and then the same one of two always.
const MOMENT: &str = "bitOr(bitShiftLeft(2 * toUInt64(toUnixTimestamp64Micro(last_at)) + served, 11), \
     cityHash64(update_uuid) % 2048)";

#[derive(Row, Deserialize)]
struct TotalsRow {
    update: String,
    downloads: u64,
    devices: u64,
    installs: u64,
}

#[derive(Row, Deserialize)]
struct ServedRow {
    start: u32,
    update: String,
    downloads: u64,
    devices: u64,
}

/// The updates of a project that go by these names.
pub(super) async fn known(
    pool: &PgPool,
    project: ProjectId,
    updates: &[Uuid],
) -> Result<Vec<KnownUpdate>, sqlx::Error> {
    sqlx::query_as(
        "select id, update_uuid, runtime_version, channel, branch_name from updates
         where project_id = $1 and update_uuid = any($2)",
    )
    .bind(project.0)
    .bind(updates)
    .fetch_all(pool)
    .await
}

/// What devices call an update of the project.
pub(super) async fn uuid_of(
    pool: &PgPool,
    project: ProjectId,
    id: i64,
) -> Result<Option<Uuid>, sqlx::Error> {
    sqlx::query_scalar("select update_uuid from updates where project_id = $1 and id = $2")
        .bind(project.0)
        .bind(id)
        .fetch_optional(pool)
        .await
}

/// All that was ever counted: of one update, or of each that was downloaded.
pub(super) async fn totals(
    reader: Reader,
    project: ProjectId,
    update: Option<Uuid>,
) -> Result<TotalsByUpdate, ReadError> {
    let evidence = Statement::default().with(
        "device_updates WHERE project_id = ? AND notEmpty(update_uuid)",
        project.0,
    );
    let evidence = of_update(evidence, update);
    let select = format!(
        "SELECT toString(update_uuid) AS update, sumIf(n, served = 1) AS downloads, \
         {DISTINCT}(identity, served = 1 AND identity != 0) AS devices, \
         {DISTINCT}(identity, served = 0 AND identity != 0) AS installs FROM ("
    );
    let having = match update {
        Some(_) => "",
        None => " HAVING downloads > 0",
    };
    let statement = Statement::new(&select)
        .append(identified(project, "update_uuid, served, n", &evidence))
        .push(") GROUP BY update_uuid")
        .push(having);
    let rows: Vec<TotalsRow> = reader.rows(statement).await?;
    let totals = rows.into_iter().map(|row| {
        let totals = Totals {
            downloads: row.downloads,
            devices: row.devices,
            installs: row.installs,
        };
        (uuid(&row.update), totals)
    });
    Ok(totals.collect())
}

/// All that the answer to a question is made of.
pub(super) async fn adopted(
    reader: Reader,
    project: ProjectId,
    question: Question,
) -> Result<Adopted, ReadError> {
    Ok(Adopted {
        served: served(&reader, project, &question).await?,
        current: current(&reader, project, &question).await?,
        installs: installs(&reader, project, &question).await?,
    })
}

async fn served(
    reader: &Reader,
    project: ProjectId,
    question: &Question,
) -> Result<Vec<Served>, ReadError> {
    let hours = hours("download_hours", project, question.window);
    let hours = of_update(filtered(hours, question), question.update);
    let start = question.bucket.start();
    let select = format!(
        "SELECT toUnixTimestamp({start}(hour)) AS start, toString(update_uuid) AS update, \
         sum(n) AS downloads, {DISTINCT}(identity, identity != 0) AS devices FROM ("
    );
    let statement = Statement::new(&select)
        .append(identified(project, "hour, update_uuid, n", &hours))
        .push(") GROUP BY start, update_uuid");
    let rows: Vec<ServedRow> = reader.rows(statement).await?;
    let served = rows.into_iter().map(|row| Served {
        bucket: i64::from(row.start),
        update: uuid(&row.update),
        downloads: row.downloads,
        devices: row.devices,
    });
    Ok(served.collect())
}

/// Each device once, by the update that its latest evidence names. Of evidence
/// of one moment, what was served counts.
async fn current(
    reader: &Reader,
    project: ProjectId,
    question: &Question,
) -> Result<HashMap<Uuid, u64>, ReadError> {
    let evidence = filtered(evidence_since(project, question.window), question)
        .push(" AND (device != 0 OR client != 0)");
    let statement = Statement::new(&format!(
        "SELECT toString(newest) AS update, count() AS devices FROM (SELECT identity, \
         argMax(update_uuid, moment) AS newest FROM (SELECT identity, update_uuid, \
         if(notEmpty(update_uuid), {MOMENT}, 0) AS moment FROM ("
    ))
    .append(identified(
        project,
        "update_uuid, served, last_at",
        &evidence,
    ))
    .push(")) GROUP BY identity) GROUP BY newest");
    by_update(reader, statement).await
}

async fn installs(
    reader: &Reader,
    project: ProjectId,
    question: &Question,
) -> Result<HashMap<Uuid, u64>, ReadError> {
    let evidence = filtered(evidence_since(project, question.window), question)
        .push(" AND served = 0 AND notEmpty(update_uuid)");
    let evidence = of_update(evidence, question.update);
    let select = format!(
        "SELECT toString(update_uuid) AS update, {DISTINCT}(identity, identity != 0) AS devices FROM ("
    );
    let statement = Statement::new(&select)
        .append(identified(project, "update_uuid", &evidence))
        .push(") GROUP BY update_uuid");
    by_update(reader, statement).await
}

async fn by_update(reader: &Reader, statement: Statement) -> Result<HashMap<Uuid, u64>, ReadError> {
    let rows: Vec<(String, u64)> = reader.rows(statement).await?;
    Ok(rows
        .into_iter()
        .map(|(update, devices)| (uuid(&update), devices))
        .collect())
}

/// What was first served in a window, on one channel and platform or on all:
/// `updates` of the time series (telemetry.md §4.3).
pub(in crate::insights) async fn first_served(
    reader: Reader,
    project: ProjectId,
    (window, bucket): (Window, Bucket),
    channel: Option<String>,
    platform: Option<String>,
) -> Result<FirstServed, ReadError> {
    let slice = |statement: Statement| {
        statement
            .with_some(" AND channel = ?", channel.as_deref())
            .with_some(" AND platform = ?", platform.as_deref())
    };
    let any = slice(Statement::new("SELECT count() FROM ").append(hours(
        "download_hours",
        project,
        window,
    )));
    if reader.row::<u64>(any).await? == 0 {
        return Ok(FirstServed::default());
    }
    let evidence = Statement::default().with(
        "device_updates WHERE project_id = ? AND served = 1 AND (device != 0 OR client != 0)",
        project.0,
    );
    let recent = hours("download_hours", project, window);
    let evidence = slice(evidence)
        .push(" AND update_uuid IN (SELECT DISTINCT update_uuid FROM ")
        .append(recent)
        .push(")");
    let start = bucket.start();
    let statement = Statement::new(&format!(
        "SELECT toUnixTimestamp({start}(earliest)) AS start, count() FROM \
         (SELECT identity, update_uuid, min(first_at) AS earliest FROM ("
    ))
    .append(identified(project, "update_uuid, first_at", &evidence))
    .push(") GROUP BY identity, update_uuid)")
    .with(
        " WHERE earliest >= toDateTime(?, 'UTC')",
        window.from.timestamp(),
    )
    .with(
        " AND earliest < toDateTime(?, 'UTC')",
        window.to.timestamp(),
    )
    .push(" GROUP BY start");
    let rows: Vec<(u32, u64)> = reader.rows(statement).await?;
    let by_bucket = rows.into_iter().map(|(start, n)| (i64::from(start), n));
    Ok(FirstServed {
        by_bucket: by_bucket.collect(),
        any: true,
    })
}

/// Rows of a table by the hour in a window.
fn hours(table: &str, project: ProjectId, window: Window) -> Statement {
    Statement::new(table)
        .with(" WHERE project_id = ?", project.0)
        .with(" AND hour >= toDateTime(?, 'UTC')", window.from.timestamp())
        .with(" AND hour < toDateTime(?, 'UTC')", window.to.timestamp())
}

/// Evidence that is not older than a window.
fn evidence_since(project: ProjectId, window: Window) -> Statement {
    let from = window.from.timestamp();
    Statement::new("device_updates")
        .with(" WHERE project_id = ?", project.0)
        .with(" AND month >= toStartOfMonth(toDateTime(?, 'UTC'))", from)
        .with(" AND last_at >= toDateTime(?, 'UTC')", from)
}

fn filtered(rows: Statement, question: &Question) -> Statement {
    rows.with_some(" AND channel = ?", question.channel.as_deref())
        .with_some(" AND platform = ?", question.platform.as_deref())
}

fn of_update(rows: Statement, update: Option<Uuid>) -> Statement {
    let update = update.map(|update| update.to_string());
    rows.with_some(" AND update_uuid = toUUID(?)", update.as_deref())
}

/// Some columns of rows, which have `device` and `client` too, with the
/// `identity` that these are (telemetry.md §8): the device id, else the one last
/// seen with the client id, else the client id; 0 for nobody. Nearly all rows
/// have a device id, so only the others are looked up.
fn identified(project: ProjectId, columns: &str, rows: &Statement) -> Statement {
    let loose = || rows.clone().push(" AND device = 0");
    Statement::new(&format!("SELECT {columns}, device AS identity FROM "))
        .append(rows.clone())
        .push(" AND device != 0 UNION ALL SELECT ")
        .push(columns)
        .push(&format!(", {OF_CLIENT} AS identity FROM (SELECT "))
        .push(columns)
        .push(", client FROM ")
        .append(loose())
        .with(
            ") AS loose ANY LEFT JOIN (SELECT client, argMaxMerge(newest) AS linked \
             FROM client_devices WHERE project_id = ?",
            project.0,
        )
        .push(" AND client IN (SELECT client FROM ")
        .append(loose())
        .push(") GROUP BY client) AS links USING (client)")
}

/// ClickHouse writes UUIDs as they are read.
fn uuid(text: &str) -> Uuid {
    text.parse().unwrap_or_default()
}
