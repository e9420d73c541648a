//! Every statement that the folder sends to ClickHouse.
//!
//! A statement of a fold is sent at most once: an attempt that fails in any way
//! is given up with its version.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use clickhouse::error::{Error, Result};
use clickhouse::query::Query;
use clickhouse::{Client, Row};
use serde::Deserialize;
use sluice_eventlog::Partition;
use sluice_schema::clickhouse::folds::{self, HourKind};
use sluice_schema::clickhouse::ledger::{DAY_S, Fold, KEPT_FOR_US, Kind, LEDGER_SQL, Ledger};
use tokio::task::JoinSet;

use super::garbage::{OpenFold, Version};
use super::schedule::View;

/// A look at the store is quick, or the store is in trouble.
const LOOK_TIMEOUT: Duration = Duration::from_secs(20);
/// The server gives a statement of a fold up after this long, and we a little later.
const FOLD_SECONDS: &str = "600";
const FOLD_TIMEOUT: Duration = Duration::from_secs(630);
/// How far back the ledger matters: device-hours, and the whole days of those.
const LEDGER_S: u32 = 10 * DAY_S;

/// Inserts go first: a fold gets few threads and bounded memory, and spills.
const FOLD_SETTINGS: [(&str, &str); 7] = [
    ("async_insert", "0"),
    ("deduplicate_insert", "disable"),
    ("max_insert_threads", "1"),
    ("max_memory_usage", "300000000"),
    ("max_bytes_before_external_group_by", "100000000"),
    ("max_bytes_ratio_before_external_group_by", "0"),
    ("max_execution_time", FOLD_SECONDS),
];

/// The folded tables of each kind, for deletion.
const TABLES: [(Kind, &str, &str); 6] = [
    (Kind::Hour, "hourly", "hour"),
    (Kind::Hour, "hourly_maps", "hour"),
    (Kind::Hour, "hourly_flags", "hour"),
    (Kind::Day, "daily", "day"),
    (Kind::Day, "daily_flags", "day"),
    (Kind::Day, "daily_maps", "day"),
];
const OPEN_TABLES: [&str; 2] = ["hourly_now", "hourly_maps_now"];

#[derive(Row, Deserialize)]
struct LedgerRow {
    what: String,
    at: u32,
    newest: u64,
    of: Vec<(u32, u64)>,
}

/// The tables of the folder.
#[derive(Clone)]
pub struct FoldStore {
    client: Client,
}

impl FoldStore {
    /// Over a client of the database.
    pub fn new(client: Client) -> Self {
        let settings = folds::SETTINGS.into_iter();
        let client = settings.fold(client, |client, (name, value)| {
            client.with_setting(name, value)
        });
        Self { client }
    }

    /// Looks at all that decides what is due. `partitions` is how many `source` has.
    pub async fn look(&self, source: &str, partitions: u32, at_us: u64) -> Result<View> {
        // In this order: what is below the watermark is among the inserts.
        let watermark_us = self.watermark_us(source, partitions).await?;
        let inserts = self.inserts().await?;
        let ledger = self.ledger(at_us).await?;
        Ok(View {
            at_us,
            watermark_us,
            inserts,
            ledger,
        })
    }

    async fn watermark_us(&self, source: &str, partitions: u32) -> Result<Option<u64>> {
        let query = "SELECT src_partition, toUnixTimestamp64Micro(max(watermark)) AS us \
             FROM watermarks WHERE src_topic = ? GROUP BY src_partition";
        let query = self.client.query(query).bind(source);
        let marks: Vec<(u16, i64)> = within(LOOK_TIMEOUT, query.fetch_all()).await?;
        let known = marks
            .iter()
            .filter(|(p, _)| Partition::from(*p) < partitions);
        let all = known.clone().count() == partitions as usize;
        let lowest = known.map(|(_, us)| *us as u64).min();
        Ok(lowest.filter(|_| all))
    }

    async fn inserts(&self) -> Result<BTreeMap<u32, u64>> {
        // Merges keep the number, inserts raise it.
        let query = "SELECT toUnixTimestamp(min_time) AS hour, toUInt64(max(max_block_number)) AS n \
             FROM system.parts WHERE database = currentDatabase() AND table = 'device_hours' \
             AND active GROUP BY hour";
        let query = self.client.query(query).fetch_all::<(u32, u64)>();
        Ok(within(LOOK_TIMEOUT, query).await?.into_iter().collect())
    }

    /// What the ledger says of the days that may still be folded at `at_us`.
    pub async fn ledger(&self, at_us: u64) -> Result<Ledger> {
        let now_s = (at_us / 1_000_000) as u32;
        let query = self.client.query(LEDGER_SQL);
        let query = query.param("from", now_s.saturating_sub(LEDGER_S));
        let rows: Vec<LedgerRow> = within(LOOK_TIMEOUT, query.fetch_all()).await?;
        let mut ledger = Ledger::default();
        for row in rows {
            let LedgerRow {
                what,
                at,
                newest,
                of,
            } = row;
            if let Some(kind) = Kind::parse(&what) {
                let fold = Fold {
                    ver: newest,
                    parts: of,
                };
                ledger.add(kind, at, fold);
            }
        }
        Ok(ledger)
    }

    /// Folds a closed hour under a version, without committing it.
    pub async fn fold_hour(&self, hour: u32, ver: u64) -> Result<()> {
        for statement in folds::fold_hour(HourKind::Closed) {
            let query = self.fold(&statement, hour, ver);
            within(FOLD_TIMEOUT, query.execute()).await?;
        }
        Ok(())
    }

    /// Folds an open hour under a version, without committing it. Its
    /// statements do not depend on each other, and somebody waits for them.
    pub async fn fold_open(&self, hour: u32, ver: u64) -> Result<()> {
        let statements = folds::fold_hour(HourKind::Open).into_iter();
        let mut running: JoinSet<Result<()>> = statements
            .map(|statement| within(FOLD_TIMEOUT, self.fold(&statement, hour, ver).execute()))
            .collect();
        while let Some(done) = running.join_next().await {
            done.map_err(|error| Error::Other(error.into()))??;
        }
        Ok(())
    }

    /// Folds a day from its hours under a version, without committing it.
    pub async fn fold_day(&self, day: u32, parts: &[(u32, u64)], ver: u64) -> Result<()> {
        let vers: Vec<u64> = parts.iter().map(|(_, ver)| *ver).collect();
        for statement in folds::fold_day() {
            let query = self.fold(&statement, day, ver).param("vers", &vers);
            within(FOLD_TIMEOUT, query.execute()).await?;
        }
        Ok(())
    }

    fn fold(&self, statement: &str, slot: u32, ver: u64) -> Query {
        let query = self
            .client
            .query_raw(statement)
            .param("h", slot)
            .param("ver", ver);
        let settings = FOLD_SETTINGS.into_iter();
        settings
            .fold(query, |query, (name, value)| {
                query.with_setting(name, value)
            })
            .with_setting("max_threads", "1")
    }

    /// Makes a version count.
    pub async fn commit(&self, kind: Kind, slot: u32, fold: &Fold) -> Result<()> {
        let insert = "INSERT INTO folds (kind, slot, ver, parts) \
             SELECT ?, fromUnixTimestamp(?), ?, CAST(?, 'Array(Tuple(UInt32, UInt64))')";
        let query = self.client.query(insert).bind(kind.as_str()).bind(slot);
        let query = query.bind(fold.ver).bind(&fold.parts);
        within(LOOK_TIMEOUT, query.execute()).await
    }

    /// Says up to which receipt everything is folded, in microseconds since 1970.
    pub async fn publish(&self, watermark_us: u64) -> Result<()> {
        let insert =
            "INSERT INTO folded_until (watermark) SELECT fromUnixTimestamp64Micro(?, 'UTC')";
        let query = self.client.query(insert).bind(watermark_us as i64);
        within(LOOK_TIMEOUT, query.execute()).await
    }

    /// The versions of open hours, each a partition of the tables that have it.
    pub async fn open_versions(&self) -> Result<Vec<(String, u64)>> {
        let query = "SELECT DISTINCT table, toUInt64(partition) AS ver FROM system.parts \
             WHERE database = currentDatabase() AND table IN ? AND active";
        let query = self.client.query(query).bind(OPEN_TABLES.as_slice());
        within(LOOK_TIMEOUT, query.fetch_all()).await
    }

    /// The folds of open hours that the ledger has.
    pub async fn open_folds(&self) -> Result<Vec<OpenFold>> {
        let query = "SELECT toUnixTimestamp(slot) AS slot, ver, \
             done < now64(3) - toIntervalMicrosecond(?) AS known FROM folds WHERE kind = 'now'";
        let query = self.client.query(query).bind(KEPT_FOR_US);
        within(LOOK_TIMEOUT, query.fetch_all()).await
    }

    /// Drops versions of open hours: their rows, then their rows of the ledger.
    pub async fn drop_open(&self, stored: &[(String, u64)], gone: &BTreeSet<u64>) -> Result<()> {
        for table in OPEN_TABLES {
            let stored = stored
                .iter()
                .filter(|(name, ver)| name == table && gone.contains(ver));
            let drops: Vec<String> = stored
                .map(|(_, ver)| format!("DROP PARTITION {ver}"))
                .collect();
            if !drops.is_empty() {
                let alter = format!("ALTER TABLE {table} {}", drops.join(", "));
                within(FOLD_TIMEOUT, self.client.query_raw(&alter).execute()).await?;
            }
        }
        self.delete("folds", gone.iter().copied().collect()).await
    }

    /// Deletes versions that were superseded, or never committed: their rows,
    /// then their rows of the ledger. `gone` decides, for the versions that a
    /// table has of the last days.
    pub async fn sweep(&self, at_us: u64, gone: impl Fn(Kind, Version) -> bool) -> Result<()> {
        let from = (at_us / 1_000_000) as u32 - LEDGER_S;
        for (kind, table, slot) in TABLES {
            let found = format!(
                "SELECT DISTINCT toUnixTimestamp({slot}) AS slot, ver FROM {table} \
                 WHERE {slot} >= fromUnixTimestamp(?)"
            );
            let found = self.client.query(&found).bind(from).fetch_all::<Version>();
            let found = within(FOLD_TIMEOUT, found).await?;
            self.delete(table, gone_of(found, kind, &gone)).await?;
        }
        for kind in [Kind::Hour, Kind::Day] {
            let found = "SELECT toUnixTimestamp(slot) AS slot, ver FROM folds \
                 WHERE kind = ? AND slot >= fromUnixTimestamp(?)";
            let found = self.client.query(found).bind(kind.as_str()).bind(from);
            let found = within(FOLD_TIMEOUT, found.fetch_all::<Version>()).await?;
            self.delete("folds", gone_of(found, kind, &gone)).await?;
        }
        let late = "DELETE FROM folds WHERE kind = 'late' AND slot < fromUnixTimestamp(?)";
        let query = self.client.query(late).bind(from);
        within(FOLD_TIMEOUT, query.execute()).await
    }

    async fn delete(&self, table: &str, versions: Vec<u64>) -> Result<()> {
        if versions.is_empty() {
            return Ok(());
        }
        let delete = format!("DELETE FROM {table} WHERE ver IN ?");
        let query = self.client.query(&delete).bind(versions);
        within(FOLD_TIMEOUT, query.execute()).await
    }

    /// Flag maps in the folds of the last day that the dictionary does not have.
    pub async fn unknown_maps(&self) -> Result<u64> {
        let query = "SELECT uniqExact(project_id, flag_map) FROM hourly_maps \
             WHERE hour >= now() - INTERVAL 1 DAY AND (project_id, flag_map) NOT IN \
             (SELECT project_id, flag_map FROM flag_maps)";
        within(FOLD_TIMEOUT, self.client.query(query).fetch_one()).await
    }
}

fn gone_of(found: Vec<Version>, kind: Kind, gone: &impl Fn(Kind, Version) -> bool) -> Vec<u64> {
    let gone = found.into_iter().filter(|version| gone(kind, *version));
    gone.map(|version| version.ver).collect()
}

async fn within<T>(limit: Duration, query: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(limit, query)
        .await
        .unwrap_or(Err(Error::TimedOut))
}
