//! What is folded, as of about a second ago: one question that all requests share.

use std::sync::Arc;
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

/// What the folds have done.
#[derive(Debug, Default)]
pub(super) struct Snapshot {
    ledger: Ledger,
    /// Everything received up to it is in what the ledger names. Never goes back.
    pub(super) folded_until: Option<DateTime<Utc>>,
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
}

impl Folds {
    pub(super) fn new(reader: Reader) -> Self {
        let snapshot = Cache::builder().time_to_live(REFRESH).build();
        Self { reader, snapshot }
    }

    /// What is folded. Fails while ClickHouse is away, and soon.
    pub(super) async fn snapshot(&self, now: DateTime<Utc>) -> ApiResult<Arc<Snapshot>> {
        Ok(self.snapshot.try_get_with((), self.load(now)).await?)
    }

    async fn load(&self, now: DateTime<Utc>) -> Result<Arc<Snapshot>, ReadError> {
        // Before the ledger, so that what it promises is in what that names.
        let folded_until = self.folded_until().await?;
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
            taken: rand::random(),
        }))
    }

    async fn folded_until(&self) -> Result<Option<DateTime<Utc>>, ReadError> {
        let newest = "SELECT toUnixTimestamp64Micro(max(watermark)) FROM folded_until";
        let newest_us: i64 = self.reader.row(Statement::new(newest)).await?;
        Ok((newest_us > 0)
            .then(|| DateTime::from_timestamp_micros(newest_us))
            .flatten())
    }
}
