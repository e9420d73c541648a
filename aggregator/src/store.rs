//! Every statement that the writer sends to ClickHouse.
//!
//! An insert of a batch carries its deduplication token, which is also its
//! query id: the same batch cannot run twice at a time, and whoever takes a
//! partition over can end what its predecessor left running there.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use bytes::Bytes;
use clickhouse::error::{Error, Result};
use clickhouse::{Client, Row};
use serde::Deserialize;
use serde_json::json;
use sluice_eventlog::{Offset, Partition};
use sluice_schema::clickhouse::EXACTLY_ONCE_SETTINGS;
use sluice_schema::id::{FrameId, ProjectId};

use crate::batch::{BatchId, token_prefix};
use crate::caps::Admitted;
use crate::evaluations::caps::OTHER_FLAG;
use crate::rows::{NewMap, OTHER_NAME, OVERFLOW_MAP, ProjectHour};

const SEND_TIMEOUT: Duration = Duration::from_secs(30);
/// Below the consumer group's session, so that a lost partition is noticed first.
const INSERT_TIMEOUT: Duration = Duration::from_mins(2);
const QUERY_TIMEOUT: Duration = Duration::from_mins(1);
/// From receiving a request to beginning it, a loaded server takes this long at most.
const SETTLE: Duration = Duration::from_millis(250);
/// What is compressed and sent at a time.
const CHUNK_BYTES: usize = 1024 * 1024;
const SECONDS_PER_HOUR: u32 = 3_600;

/// A batch that an earlier owner of a partition sent, and that may be there in part.
#[derive(Clone, Copy, Debug, Row, Deserialize)]
pub struct LastBatch {
    /// Offset of its first record.
    pub first: Offset,
    /// Offset of its last record.
    pub last: Offset,
    /// When one of its events was received, in microseconds since 1970.
    pub received_us: i64,
    rows: u64,
}

#[derive(Row, Deserialize)]
struct HourValues {
    project_id: u64,
    names: Vec<String>,
    maps: Vec<u64>,
}

/// Flag keys and values.
pub type Pairs = Vec<(String, String)>;

/// The tables of the writer.
#[derive(Clone)]
pub struct Store {
    client: Client,
    /// Where a batch's rows go.
    raw: &'static str,
}

impl Store {
    /// Over a client of the database, for batches of the raw table `raw`.
    pub fn new(client: Client, raw: &'static str) -> Self {
        Self { client, raw }
    }

    /// Inserts a block of raw rows, with everything that views make of it.
    /// Sent again, it changes nothing that is there and adds what is missing.
    pub async fn insert(&self, id: &BatchId, block: Bytes) -> Result<()> {
        let token = id.to_string();
        let mut insert = self
            .client
            .insert_formatted_with(format!("INSERT INTO {} FORMAT Native", self.raw))
            .with_setting("insert_deduplication_token", &token)
            .with_setting("query_id", &token)
            .with_timeouts(Some(SEND_TIMEOUT), Some(INSERT_TIMEOUT));
        for (name, value) in EXACTLY_ONCE_SETTINGS {
            insert = insert.with_setting(name, value);
        }
        for chunk in (0..block.len()).step_by(CHUNK_BYTES) {
            let end = block.len().min(chunk + CHUNK_BYTES);
            insert.send(block.slice(chunk..end)).await?;
        }
        insert.end().await
    }

    /// Ends the inserts of partitions that an earlier owner left running, and
    /// those that the server had received but not begun.
    pub async fn fence(&self, source: &str, partitions: &[Partition]) -> Result<()> {
        self.end_inserts(source, partitions).await?;
        tokio::time::sleep(SETTLE).await;
        self.end_inserts(source, partitions).await
    }

    async fn end_inserts(&self, source: &str, partitions: &[Partition]) -> Result<()> {
        let kill = "KILL QUERY WHERE user = currentUser() \
             AND arrayExists(prefix -> startsWith(query_id, prefix), ?) SYNC";
        let prefixes = partitions.iter().map(|p| token_prefix(source, *p));
        let prefixes: Vec<String> = prefixes.collect();
        within(self.client.query(kill).bind(prefixes).execute()).await
    }

    /// The newest batch that left rows and reaches `from` or beyond.
    pub async fn last_batch(
        &self,
        source: &str,
        partition: Partition,
        from: Offset,
    ) -> Result<Option<LastBatch>> {
        let newest = format!(
            "SELECT argMax(batch_first, batch_last) AS first, max(batch_last) AS last, \
             toUnixTimestamp64Micro(argMax(received_at, batch_last)) AS received_us, count() AS rows \
             FROM {} WHERE src_topic = ? AND src_partition = ? AND batch_last >= ?",
            self.raw
        );
        let query = self
            .client
            .query(&newest)
            .bind(source)
            .bind(partition)
            .bind(from);
        let last: LastBatch = within(query.fetch_one()).await?;
        Ok((last.rows > 0).then_some(last))
    }

    /// About how many batches of all partitions were inserted after this receipt.
    pub async fn batches_since(&self, received_us: i64) -> Result<u64> {
        let batches = format!(
            "SELECT uniq(src_topic, src_partition, batch_first) FROM {} \
             WHERE received_at >= fromUnixTimestamp64Micro(?, 'UTC')",
            self.raw
        );
        within(self.client.query(&batches).bind(received_us).fetch_one()).await
    }

    /// The lowest offset of its partition from which a frame has rows, if it has
    /// any. With its id go the bounds of its requests' receipt, in microseconds since 1970.
    pub async fn stored_at(
        &self,
        source: &str,
        partition: Partition,
        (frame, received_us): (FrameId, (i64, i64)),
    ) -> Result<Option<Offset>> {
        let stored = format!(
            "SELECT min(src_offset), count() FROM {} \
             WHERE src_topic = ? AND src_partition = ? AND frame_id = toUUID(?) \
             AND received_at >= fromUnixTimestamp64Micro(?, 'UTC') \
             AND received_at <= fromUnixTimestamp64Micro(?, 'UTC')",
            self.raw
        );
        let query = self
            .client
            .query(&stored)
            .bind(source)
            .bind(partition)
            .bind(frame.to_string())
            .bind(received_us.0)
            .bind(received_us.1);
        let (offset, rows): (u64, u64) = within(query.fetch_one()).await?;
        Ok((rows > 0).then_some(offset))
    }

    /// The custom names and flag maps that raw has of these hours.
    pub async fn admitted(&self, slots: &[ProjectHour]) -> Result<Vec<(ProjectHour, Admitted)>> {
        let mut by_hour: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
        for slot in slots {
            by_hour.entry(slot.hour).or_default().push(slot.project);
        }
        let mut all = Vec::with_capacity(slots.len());
        for (hour, projects) in by_hour {
            let values = self.hour_values(hour, &projects).await?;
            // A project without rows in the hour is known too, to have none.
            let mut values: HashMap<u64, Admitted> = values.into_iter().collect();
            for project in projects {
                let admitted = values.remove(&project).unwrap_or_default();
                all.push((ProjectHour { project, hour }, admitted));
            }
        }
        Ok(all)
    }

    async fn hour_values(&self, hour: u32, projects: &[u64]) -> Result<Vec<(u64, Admitted)>> {
        let query = "SELECT project_id, \
             groupUniqArrayIf(toString(name), type = 'custom' AND name != ?) AS names, \
             groupUniqArrayIf(flag_map, flag_map != 0 AND flag_map != ?) AS maps \
             FROM health_events WHERE project_id IN ? AND received_at >= toDateTime(?, 'UTC') \
             AND received_at < toDateTime(?, 'UTC') GROUP BY project_id";
        let start = hour * SECONDS_PER_HOUR;
        let query = self
            .client
            .query(query)
            .bind(OTHER_NAME)
            .bind(OVERFLOW_MAP)
            .bind(projects)
            .bind(start)
            .bind(start + SECONDS_PER_HOUR);
        let rows: Vec<HourValues> = within(query.fetch_all()).await?;
        let admitted = rows.into_iter().map(|row| {
            let names = row.names.into_iter().map(Into::into).collect();
            let maps = row.maps.into_iter().collect();
            (row.project_id, Admitted { names, maps })
        });
        Ok(admitted.collect())
    }

    /// The flag keys and values that raw has of these hours, as devices reported
    /// them, but for the key that stands for those over the cap.
    pub async fn counted_pairs(&self, slots: &[ProjectHour]) -> Result<Vec<(ProjectHour, Pairs)>> {
        let mut all = Vec::with_capacity(slots.len());
        for slot in slots {
            let query = "SELECT DISTINCT toString(flag_key), toString(value) FROM flag_evaluations \
                 WHERE project_id = ? AND received_at >= toDateTime(?, 'UTC') \
                 AND received_at < toDateTime(?, 'UTC') AND source = 'sdk' \
                 AND flag_key != ?";
            let start = slot.hour * SECONDS_PER_HOUR;
            let query = self
                .client
                .query(query)
                .bind(slot.project)
                .bind(start)
                .bind(start + SECONDS_PER_HOUR)
                .bind(OTHER_FLAG);
            all.push((*slot, within(query.fetch_all()).await?));
        }
        Ok(all)
    }

    /// Stores flag maps in the dictionary. Idempotent.
    pub async fn put_flag_maps(&self, maps: &[NewMap]) -> Result<()> {
        let rows = maps.iter().map(|map| {
            json!({
                "project_id": map.project,
                "flag_map": map.id,
                "seen": map.day,
                "flags": map.states.pairs(),
            })
        });
        let into = "INSERT INTO flag_maps SELECT project_id, flag_map, toDate(seen), flags FROM \
             input('project_id UInt64, flag_map UInt64, seen UInt16, flags Array(Tuple(String, String))')";
        self.insert_json(into, rows).await
    }

    /// Says in the ledger of folds that hours got rows that may be folded already.
    pub async fn mark_late(&self, hours: &[u32], version_us: i64) -> Result<()> {
        let rows = hours.iter().map(
            |hour| json!({"kind": "late", "slot": hour * SECONDS_PER_HOUR, "ver": version_us}),
        );
        self.insert_json("INSERT INTO folds", rows).await
    }

    /// Says up to which receipt partitions are aggregated, in microseconds since 1970.
    pub async fn put_watermarks(&self, source: &str, marks: &[(Partition, i64)]) -> Result<()> {
        let rows = marks.iter().map(|(partition, us)| {
            let seconds = us.div_euclid(1_000_000);
            let micros = us.rem_euclid(1_000_000);
            // A text, because a number would pass through a float.
            let watermark = format!("{seconds}.{micros:06}");
            json!({"src_topic": source, "src_partition": partition, "watermark": watermark})
        });
        self.insert_json("INSERT INTO watermarks", rows).await
    }

    /// How the slugs of the frame at `offset` were resolved before; `None` for an unknown project.
    pub async fn resolved_slugs(
        &self,
        source: &str,
        partition: Partition,
        offset: Offset,
    ) -> Result<HashMap<String, Option<ProjectId>>> {
        let query = "SELECT slug, project_id FROM resolved_slugs \
             WHERE src_topic = ? AND src_partition = ? AND src_offset = ?";
        let query = self
            .client
            .query(query)
            .bind(source)
            .bind(partition)
            .bind(offset);
        let rows: Vec<(String, u64)> = within(query.fetch_all()).await?;
        let known = |id: u64| (id != 0).then_some(ProjectId(id as i64));
        Ok(rows
            .into_iter()
            .map(|(slug, id)| (slug, known(id)))
            .collect())
    }

    /// Remembers how the slugs of the frame at `offset` were resolved.
    pub async fn put_resolved_slugs(
        &self,
        source: &str,
        partition: Partition,
        offset: Offset,
        slugs: &HashMap<String, Option<ProjectId>>,
    ) -> Result<()> {
        let rows = slugs.iter().map(|(slug, project)| {
            json!({
                "src_topic": source,
                "src_partition": partition,
                "src_offset": offset,
                "slug": slug,
                "project_id": project.map_or(0, |project| project.0),
            })
        });
        self.insert_json("INSERT INTO resolved_slugs", rows).await
    }

    /// A few rows, for tables that no view depends on.
    async fn insert_json(
        &self,
        into: &str,
        rows: impl Iterator<Item = serde_json::Value>,
    ) -> Result<()> {
        let lines: Vec<String> = rows.map(|row| row.to_string()).collect();
        let mut insert = self
            .client
            .insert_formatted_with(format!("{into} FORMAT JSONEachRow"))
            .with_setting("async_insert", "0")
            .with_timeouts(Some(SEND_TIMEOUT), Some(QUERY_TIMEOUT));
        insert.send(Bytes::from(lines.join("\n"))).await?;
        insert.end().await
    }
}

async fn within<T>(query: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(QUERY_TIMEOUT, query)
        .await
        .unwrap_or(Err(Error::TimedOut))
}
