//! Reads counts. Each statement names the project, and the flags whose counts
//! are meant, each from the hour on in which it was made.

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use clickhouse::query::Query;
use clickhouse::{RowOwned, RowRead};
use sluice_schema::id::ProjectId;
use sqlx::PgPool;

use super::model::Variation;
use crate::ApiState;
use crate::insights::channels::{Channels, DefaultChannel};
use crate::insights::reader::{ReadError, Reader};
use crate::insights::window::{Window, start_of_day};
use crate::scope::ProjectScope;

const SECONDS_PER_HOUR: i64 = 3_600;
/// Values of one flag that are looked at one by one, the most frequent first;
/// the counts of all others are of no variation.
const MAX_VALUES: u32 = 10_000;
/// The flags of a project are named in the statement.
const MAX_QUERY_BYTES: &str = "16777216";
/// What counts: streams are not evaluations.
const COUNTED: &str = "source IN ('sdk', 'bulk')";

/// A flag, as far as counts concern it.
#[derive(Clone, Debug, sqlx::FromRow)]
pub(crate) struct CountedFlag {
    /// Counts are stored by it.
    pub(crate) key: String,
    /// What was counted in hours before is another flag's.
    pub(crate) created_at: DateTime<Utc>,
}

impl CountedFlag {
    fn since_s(&self) -> u32 {
        let hour = self.created_at.timestamp() / SECONDS_PER_HOUR * SECONDS_PER_HOUR;
        u32::try_from(hour).unwrap_or_default()
    }
}

/// How counts are put together for a chart: the bucket that an hour is in.
#[derive(Clone, Copy, Debug)]
pub(in crate::insights) struct Buckets(&'static str);

/// By UTC dates.
pub(in crate::insights) const DAYS: Buckets = Buckets("toStartOfDay(hour)");
/// By UTC hours.
pub(in crate::insights) const HOURS: Buckets = Buckets("hour");

/// What is counted of one flag in a window.
#[derive(Debug, Default)]
pub(super) struct FlagCounts {
    pub(super) by_date: HashMap<NaiveDate, u64>,
    /// Values as stored; the most frequent.
    pub(super) by_value: Vec<(String, u64)>,
    /// Of the latest report, in the window or before it.
    pub(super) last_at: Option<DateTime<Utc>>,
}

/// Totals of one flag.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    /// Of all channels, and of none.
    pub(crate) total: i64,
    /// By channel.
    pub(crate) by_channel: BTreeMap<String, i64>,
}

/// A flag of a project.
pub(super) async fn flag(
    pool: &PgPool,
    project: ProjectId,
    id: i64,
) -> Result<Option<CountedFlag>, sqlx::Error> {
    sqlx::query_as("select key, created_at from flags where project_id = $1 and id = $2")
        .bind(project.0)
        .bind(id)
        .fetch_optional(pool)
        .await
}

/// All flags of a project, or the one of this key.
pub(in crate::insights) async fn flags(
    pool: &PgPool,
    project: ProjectId,
    key: Option<&str>,
) -> Result<Vec<CountedFlag>, sqlx::Error> {
    sqlx::query_as(
        "select key, created_at from flags
         where project_id = $1 and ($2::text is null or key = $2)",
    )
    .bind(project.0)
    .bind(key)
    .fetch_all(pool)
    .await
}

/// The variations of a flag, by sort order.
pub(super) async fn variations(
    pool: &PgPool,
    project: ProjectId,
    flag: i64,
) -> Result<Vec<Variation>, sqlx::Error> {
    sqlx::query_as(
        "select id, name, value from flag_variations
         where project_id = $1 and flag_id = $2 order by sort_order, id",
    )
    .bind(project.0)
    .bind(flag)
    .fetch_all(pool)
    .await
}

/// What is counted of a flag on these dates, ascending, in some channels or in all.
pub(super) async fn counts_of_flag(
    reader: &Reader,
    project: ProjectId,
    flag: &CountedFlag,
    dates: &[NaiveDate],
    channels: &Channels,
) -> Result<FlagCounts, ReadError> {
    let window = match (dates.first(), dates.last()) {
        (Some(first), Some(last)) => Window {
            from: start_of_day(*first),
            to: start_of_day(*last) + TimeDelta::days(1),
        },
        _ => return Ok(FlagCounts::default()),
    };
    let flags = std::slice::from_ref(flag);
    let slice = Slice {
        project,
        flags,
        channels,
    };
    let (by_date, by_value, last_at) = tokio::try_join!(
        slice.by_bucket(reader, window, DAYS),
        slice.by_value(reader, window),
        slice.last_at(reader),
    )?;
    let date = |(start, n)| {
        (
            DateTime::from_timestamp(start, 0).map(|at| at.date_naive()),
            n,
        )
    };
    let by_date = by_date.into_iter().map(date);
    Ok(FlagCounts {
        by_date: by_date.filter_map(|(date, n)| Some((date?, n))).collect(),
        by_value,
        last_at,
    })
}

/// How often these flags of a project were evaluated in each bucket of a
/// window: `flagEvals` of the time series (telemetry.md §4.3). By the bucket's
/// start in seconds since 1970; `bucket` is [`DAYS`] or [`HOURS`].
pub(in crate::insights) async fn flag_evals(
    reader: &Reader,
    project: ProjectId,
    flags: &[CountedFlag],
    window: Window,
    bucket: Buckets,
    channels: &Channels,
) -> Result<HashMap<i64, u64>, ReadError> {
    let slice = Slice {
        project,
        flags,
        channels,
    };
    slice.by_bucket(reader, window, bucket).await
}

/// How often each of these flags of a project was evaluated, by key, on so many
/// UTC dates, of which the last is today.
pub(crate) async fn totals_by_flag(
    state: &ApiState,
    scope: &ProjectScope,
    flags: &[CountedFlag],
    days: i64,
) -> Result<HashMap<String, Totals>, ReadError> {
    let window = Window::days(state.clock.now(), days);
    let (reader, shown_as) = (&state.insights.reader, &scope.default_channel);
    totals(reader, scope.project, flags, window, shown_as).await
}

async fn totals(
    reader: &Reader,
    project: ProjectId,
    flags: &[CountedFlag],
    window: Window,
    default_channel: &DefaultChannel,
) -> Result<HashMap<String, Totals>, ReadError> {
    let slice = Slice {
        project,
        flags,
        channels: &Channels::default(),
    };
    let select = "SELECT toString(flag_key), toString(channel), sum(n)";
    let group = "GROUP BY flag_key, channel";
    let rows: Vec<(String, String, u64)> = slice.rows(reader, select, Some(window), group).await?;
    let mut totals: HashMap<String, Totals> = HashMap::new();
    for (key, channel, n) in rows {
        let flag = totals.entry(key).or_default();
        let n = n as i64;
        flag.total += n;
        if !channel.is_empty() {
            let shown = default_channel.shown(channel);
            *flag.by_channel.entry(shown).or_default() += n;
        }
    }
    Ok(totals)
}

/// Whose counts are meant.
struct Slice<'s> {
    project: ProjectId,
    flags: &'s [CountedFlag],
    channels: &'s Channels,
}

impl Slice<'_> {
    async fn by_bucket(
        &self,
        reader: &Reader,
        window: Window,
        Buckets(start): Buckets,
    ) -> Result<HashMap<i64, u64>, ReadError> {
        let select = format!("SELECT toUnixTimestamp({start}) AS start, sum(n)");
        let group = "GROUP BY start HAVING sum(n) > 0";
        let rows: Vec<(u32, u64)> = self.rows(reader, &select, Some(window), group).await?;
        Ok(rows
            .into_iter()
            .map(|(start, n)| (i64::from(start), n))
            .collect())
    }

    async fn by_value(
        &self,
        reader: &Reader,
        window: Window,
    ) -> Result<Vec<(String, u64)>, ReadError> {
        let select = "SELECT toString(value) AS v, sum(n) AS total";
        let group = format!("GROUP BY value ORDER BY total DESC, v LIMIT {MAX_VALUES}");
        self.rows(reader, select, Some(window), &group).await
    }

    async fn last_at(&self, reader: &Reader) -> Result<Option<DateTime<Utc>>, ReadError> {
        let select = "SELECT toUnixTimestamp64Micro(max(last_at)), count()";
        let rows: Vec<(i64, u64)> = self.rows(reader, select, None, "").await?;
        let last = rows.first().filter(|(_, hours)| *hours > 0);
        Ok(last.and_then(|(us, _)| DateTime::from_timestamp_micros(*us)))
    }

    async fn rows<T: RowOwned + RowRead>(
        &self,
        reader: &Reader,
        select: &str,
        window: Option<Window>,
        group: &str,
    ) -> Result<Vec<T>, ReadError> {
        if self.flags.is_empty() {
            return Ok(Vec::new());
        }
        reader.ask(self.bound(reader, select, window, group)).await
    }

    fn bound(&self, reader: &Reader, select: &str, window: Option<Window>, group: &str) -> Query {
        let (channel, named) = self.channels.condition().unzip();
        let channel = channel.unwrap_or_default();
        let hours = window.map_or(
            "",
            |_| "AND hour >= toDateTime(?, 'UTC') AND hour < toDateTime(?, 'UTC')",
        );
        let statement = format!(
            "{select} FROM evaluation_hours WHERE project_id = ? AND flag_key IN ? \
             AND toUnixTimestamp(hour) >= transform(toString(flag_key), ?, ?, 4294967295) \
             AND {COUNTED}{channel} {hours} {group}"
        );
        let keys: Vec<&str> = self.flags.iter().map(|flag| flag.key.as_str()).collect();
        let since: Vec<u32> = self.flags.iter().map(CountedFlag::since_s).collect();
        let mut query = reader
            .query(&statement)
            .with_setting("max_query_size", MAX_QUERY_BYTES)
            .bind(self.project.0)
            .bind(&keys)
            .bind(&keys)
            .bind(since);
        if let Some(named) = named {
            query = query.bind(named);
        }
        match window {
            Some(window) => query
                .bind(window.from.timestamp())
                .bind(window.to.timestamp()),
            None => query,
        }
    }
}

#[cfg(test)]
mod tests;
