//! What is folded, as of about a second ago: one question that all requests share.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use clickhouse::Row;
use moka::future::Cache;
use serde::Deserialize;
use sluice_schema::clickhouse::ledger::{
    DayVersions, Fold, HourVersions, Kind, LEDGER_SQL, Ledger,
};

use super::reader::{ReadError, Reader, Statement};
use super::window::Window;
use crate::error::ApiResult;

/// How old the ledger of a request is at most. Far below the time for which
/// superseded versions stay readable.
const REFRESH: Duration = Duration::from_secs(1);
/// As far back as a read can look: twice 90 days, because of its baseline.
const HORIZON: TimeDelta = TimeDelta::days(181);

/// Up to when every partition of the logs beside health is counted, in
/// microseconds since 1970; 0 where there is none. Of a log that was made anew
/// the newest incarnation counts.
const OTHER_LOGS: &str = "SELECT toUnixTimestamp64Micro(min(low)) FROM ( \
     SELECT splitByChar('@', toString(src_topic))[1] AS log, argMax(lowest, newest) AS low FROM ( \
     SELECT src_topic, min(mark) AS lowest, max(mark) AS newest FROM ( \
     SELECT src_topic, src_partition, max(watermark) AS mark FROM watermarks \
     WHERE NOT startsWith(src_topic, 'health@') GROUP BY src_topic, src_partition) \
     GROUP BY src_topic) GROUP BY log)";

/// What the folds have done.
#[derive(Debug, Default)]
pub(super) struct Snapshot {
    ledger: Ledger,
    /// Everything received up to it is in what the ledger names. Never goes back.
    pub(super) folded_until: Option<DateTime<Utc>>,
    /// The same of all logs: of what needs no folds, counts of evaluations and of
    /// downloads, too. Never goes back, nor ahead of `folded_until`.
    pub(super) counted_until: Option<DateTime<Utc>>,
    /// Tells this snapshot from those before and after it.
    pub(super) taken: u64,
}

impl Snapshot {
    /// Changes with every fold.
    pub(super) fn version(&self) -> u64 {
        self.ledger.newest()
    }

    /// What to name in a read by the hour.
    pub(super) fn hours(&self, window: Window) -> HourVersions {
        self.ledger.hours(seconds(window.from)..seconds(window.to))
    }

    /// What to name in a read by the day.
    pub(super) fn days(&self, window: Window) -> DayVersions {
        self.ledger.days(seconds(window.from)..seconds(window.to))
    }
}

fn seconds(at: DateTime<Utc>) -> u32 {
    u32::try_from(at.timestamp().max(0)).unwrap_or(u32::MAX)
}

#[derive(Row, Deserialize)]
struct LedgerRow {
    what: String,
    at: u32,
    newest: u64,
    of: Vec<(u32, u64)>,
}

/// Follows the ledger while anybody asks.
#[derive(Clone)]
pub(super) struct Folds {
    reader: Reader,
    snapshot: Cache<(), Arc<Snapshot>>,
    /// The newest `counted_until`, in microseconds since 1970.
    counted_us: Arc<AtomicI64>,
}

impl Folds {
    pub(super) fn new(reader: Reader) -> Self {
        let snapshot = Cache::builder().time_to_live(REFRESH).build();
        Self {
            reader,
            snapshot,
            counted_us: Arc::default(),
        }
    }

    /// What is folded. Fails while ClickHouse is away, and soon.
    pub(super) async fn snapshot(&self, now: DateTime<Utc>) -> ApiResult<Arc<Snapshot>> {
        Ok(self.snapshot.try_get_with((), self.load(now)).await?)
    }

    async fn load(&self, now: DateTime<Utc>) -> Result<Arc<Snapshot>, ReadError> {
        // Before the ledger, so that what it promises is in what that names.
        let folded_until = self.folded_until().await?;
        let counted_until = self.counted_until(folded_until).await?;
        let mut ledger = Ledger::default();
        let rows = self.reader.query(LEDGER_SQL);
        let rows = rows.param("from", seconds(now - HORIZON));
        for row in self.reader.ask::<LedgerRow>(rows).await? {
            if let Some(kind) = Kind::parse(&row.what) {
                let (ver, parts) = (row.newest, row.of);
                ledger.add(kind, row.at, Fold { ver, parts });
            }
        }
        Ok(Arc::new(Snapshot {
            ledger,
            folded_until,
            counted_until,
            taken: rand::random(),
        }))
    }

    /// The earliest of what is folded and of what the other logs have counted. A
    /// log that nobody has read has nothing in it yet.
    async fn counted_until(
        &self,
        folded_until: Option<DateTime<Utc>>,
    ) -> Result<Option<DateTime<Utc>>, ReadError> {
        let Some(folded_until) = folded_until else {
            return Ok(None);
        };
        let others_us: i64 = self.reader.row(Statement::new(OTHER_LOGS)).await?;
        let mut counted_us = folded_until.timestamp_micros();
        if others_us > 0 {
            counted_us = counted_us.min(others_us);
        }
        // A log that was never read before may begin far behind.
        let before_us = self.counted_us.fetch_max(counted_us, Ordering::Relaxed);
        Ok(DateTime::from_timestamp_micros(counted_us.max(before_us)))
    }

    async fn folded_until(&self) -> Result<Option<DateTime<Utc>>, ReadError> {
        let newest = "SELECT toUnixTimestamp64Micro(max(watermark)) FROM folded_until";
        let newest_us: i64 = self.reader.row(Statement::new(newest)).await?;
        Ok((newest_us > 0)
            .then(|| DateTime::from_timestamp_micros(newest_us))
            .flatten())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::insights::evaluations::bulk::tests::migrated;

    #[tokio::test]
    async fn what_is_counted_never_goes_back() {
        let client = migrated().await;
        let folds = Folds::new(Reader::new(client.clone()));
        let at = |minutes: i64| DateTime::UNIX_EPOCH + TimeDelta::minutes(minutes);
        let run = async |statement: &str, minutes: i64| {
            let statement = client.query(statement).bind(at(minutes).timestamp_micros());
            statement.execute().await.unwrap();
        };
        let fold = "INSERT INTO folded_until (watermark) SELECT fromUnixTimestamp64Micro(?, 'UTC')";
        let mark =
            "INSERT INTO watermarks SELECT 'manifests@1', 0, fromUnixTimestamp64Micro(?, 'UTC')";
        let counted = async || folds.load(Utc::now()).await.expect("a look").counted_until;
        run(mark, 5).await;
        assert_eq!(counted().await, None, "nothing is folded");
        run(fold, 20).await;
        assert_eq!(counted().await, Some(at(5)));
        run(mark, 30).await;
        assert_eq!(counted().await, Some(at(20)));
        // Another log begins, far behind.
        run(&mark.replace("manifests", "evaluations"), 1).await;
        assert_eq!(counted().await, Some(at(20)));
        run(fold, 40).await;
        assert_eq!(counted().await, Some(at(20)));
        run(&mark.replace("manifests", "evaluations"), 35).await;
        assert_eq!(counted().await, Some(at(30)));
    }
}
