use clickhouse::Row;
use serde::Deserialize;
use sluice_schema::clickhouse::places;
use sluice_schema::id::ProjectId;

use super::model::{Bucket, Events, Filter, FlagEvals, Question};
use crate::insights::downloads::model::FirstServed;
use crate::insights::downloads::store::first_served as read_first_served;
use crate::insights::evaluations::store::{self as evaluations, CountedFlag};
use crate::insights::folds::Snapshot;
use crate::insights::reader::{ReadError, Reader, Statement};
use crate::insights::stored::{Rows, SUMS, StoredSums, Tables, maps_with_flag};

const OF_ALL: Tables = Tables {
    daily: "daily",
    hourly: "hourly",
    now: "hourly_now",
};
const OF_FLAGS: Tables = Tables {
    daily: "daily_flags",
    hourly: "hourly_flags",
    now: "hourly_maps_now",
};

#[derive(Row, Deserialize)]
struct BucketRow {
    bucket: u32,
    sums: StoredSums,
    devices: u64,
}

/// What devices were first served. Downloads know nothing of flags, nor of the
/// channel `default`.
pub(super) async fn first_served(
    reader: Reader,
    project: ProjectId,
    question: Question,
) -> Result<FirstServed, ReadError> {
    let span = (question.window, question.bucket);
    let Filter {
        channels, platform, ..
    } = question.filter;
    let channel = channels.name().map(str::to_owned);
    read_first_served(reader, project, span, channel, platform).await
}

/// How often flags of a project were evaluated in the window of a question.
/// Evaluations know nothing of platforms.
pub(super) async fn flag_evals(
    reader: Reader,
    project: ProjectId,
    question: Question,
    flags: Vec<CountedFlag>,
) -> Result<FlagEvals, ReadError> {
    let bucket = match question.bucket {
        Bucket::Day => evaluations::DAYS,
        Bucket::Hour => evaluations::HOURS,
    };
    let channels = &question.filter.channels;
    evaluations::flag_evals(&reader, project, &flags, question.window, bucket, channels).await
}

/// What a project reported in the window of a question.
pub(super) async fn events(
    reader: &Reader,
    project: ProjectId,
    folds: &Snapshot,
    question: &Question,
) -> Result<Events, ReadError> {
    let Some(statement) = statement(project, folds, question) else {
        return Ok(Events::new());
    };
    let rows: Vec<BucketRow> = reader.rows(statement).await?;
    // In flag slices these are places.
    let devices = match question.filter.flag_key {
        Some(_) => places::devices,
        None => |devices| devices,
    };
    let buckets = rows.into_iter().map(|row| {
        (
            i64::from(row.bucket),
            (row.sums.into(), devices(row.devices)),
        )
    });
    Ok(buckets.collect())
}

fn statement(project: ProjectId, folds: &Snapshot, question: &Question) -> Option<Statement> {
    let filter = where_clause(project, &question.filter);
    let (tables, columns, devices) = match question.filter.flag_key {
        Some(_) => (OF_FLAGS, "L, J, C, S, E, EC, H, D", "uniqExactArray(D)"),
        None => (
            OF_ALL,
            "L, J, C, S, E, EC, H, U",
            "uniqCombined64Merge(16)(U)",
        ),
    };
    let rows = Rows {
        project,
        window: question.window,
        columns,
        filter: &filter,
    };
    let rows = match question.bucket {
        Bucket::Day => rows.by_day(tables, folds),
        Bucket::Hour => rows.by_hour(tables, folds),
    };
    Some(merged(rows?, question.bucket, devices))
}

/// A row for each bucket.
fn merged(rows: Statement, bucket: Bucket, devices: &str) -> Statement {
    let start = bucket.start();
    let select = format!(
        "SELECT toUnixTimestamp({start}(time)) AS bucket, {SUMS}, \
         {devices} AS devices FROM ("
    );
    Statement::new(&select)
        .append(rows)
        .push(") GROUP BY bucket HAVING sums.7 > 0")
}

fn where_clause(project: ProjectId, filter: &Filter) -> Statement {
    let clause = filter
        .channels
        .clause()
        .with_some(" AND platform = ?", filter.platform.as_deref());
    match &filter.flag_key {
        None => clause,
        Some(key) => clause
            .push(" AND flag_map IN (")
            .append(maps_with_flag(project, key))
            .push(")"),
    }
}
