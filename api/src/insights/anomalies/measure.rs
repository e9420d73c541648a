//! What the trailing hour shows beside the day before, over all projects: a few
//! questions, however many projects there are. The dear ones are about channels
//! alone that have too many errors.

mod latencies;
mod shares;

use std::collections::{BTreeSet, HashMap};

use chrono::{DateTime, TimeDelta, Utc};
use clickhouse::Row;
use serde::Deserialize;
use sluice_schema::id::ProjectId;

use self::shares::{Places, ShareRow};
use super::rules::{
    BASELINE_HOURS, Baseline, Context, DEVICE_CAP, Kind, Latency, Severity, Trailing, spike,
};
use crate::insights::folds::Snapshot;
use crate::insights::reader::{ReadError, Reader, Statement};
use crate::insights::window::{Window, start_of_hour};

/// A channel of a project.
pub(super) type Place = (ProjectId, String);

/// Something that is wrong now.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Alarm {
    pub(super) place: Place,
    pub(super) kind: Kind,
    pub(super) severity: Severity,
    pub(super) what: What,
}

/// The figures of an alarm.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum What {
    Errors {
        trailing: Trailing,
        /// As many in an hour are usual.
        per_hour: f64,
    },
    Latency {
        metric: String,
        now: Latency,
        usual: Latency,
    },
}

impl Alarm {
    /// Errors, crashes or samples of the hour.
    pub(super) fn count(&self) -> u64 {
        match &self.what {
            What::Errors { trailing, .. } => trailing.events,
            What::Latency { now, .. } => now.samples,
        }
    }

    /// Distinct devices with an error or crash; of samples nobody has counted them.
    pub(super) fn devices(&self) -> u64 {
        match &self.what {
            What::Errors { trailing, .. } => trailing.devices,
            What::Latency { .. } => 0,
        }
    }
}

/// The trailing hour, up to and with a moment.
pub(super) fn trailing_hour(now: DateTime<Utc>) -> Window {
    Window {
        from: now - TimeDelta::hours(1),
        to: now,
    }
}

/// Raw rows that were received in a window.
pub(super) fn received(window: Window) -> Statement {
    let after = " received_at > fromUnixTimestamp64Micro(?, 'UTC')";
    let until = " AND received_at <= fromUnixTimestamp64Micro(?, 'UTC')";
    Statement::default()
        .with(after, window.from.timestamp_micros())
        .with(until, window.to.timestamp_micros())
}

/// All that is wrong at a moment.
pub(super) async fn alarms(
    reader: &Reader,
    folds: &Snapshot,
    now: DateTime<Utc>,
) -> Result<Vec<Alarm>, ReadError> {
    let looks = Looks { reader, folds, now };
    let (spikes, slow) = tokio::try_join!(looks.spikes(), looks.slow())?;
    Ok(spikes.into_iter().chain(slow).collect())
}

#[derive(Row, Deserialize)]
struct TrailingRow {
    project_id: u64,
    channel: String,
    errors: u64,
    crashes: u64,
    devices: u64,
    crash_devices: u64,
}

#[derive(Row, Deserialize)]
struct FirstRow {
    project_id: u64,
    first: u32,
}

#[derive(Row, Deserialize)]
struct BaselineRow {
    project_id: u64,
    channel: String,
    errors: u64,
    crashes: u64,
}

impl TrailingRow {
    fn of(&self, kind: Kind) -> Trailing {
        let (events, devices) = match kind {
            Kind::Crashes => (self.crashes, self.crash_devices),
            _ => (self.errors, self.devices),
        };
        Trailing { events, devices }
    }
}

/// More errors than usual; not yet an anomaly.
struct Excess {
    place: Place,
    kind: Kind,
    trailing: Trailing,
    per_hour: f64,
    times: f64,
}

/// What all questions of a round have in common.
struct Looks<'a> {
    reader: &'a Reader,
    folds: &'a Snapshot,
    now: DateTime<Utc>,
}

impl Looks<'_> {
    /// The whole hours before the running one.
    fn day(&self) -> Window {
        let to = start_of_hour(self.now);
        Window {
            from: to - TimeDelta::hours(BASELINE_HOURS),
            to,
        }
    }

    async fn spikes(&self) -> Result<Vec<Alarm>, ReadError> {
        let excesses = self.excesses().await?;
        if excesses.is_empty() {
            return Ok(Vec::new());
        }
        let places = Places::of(excesses.iter().map(|excess| &excess.place));
        let (now, usual, active) = tokio::try_join!(
            self.shares_now(&places),
            self.usual_shares(&places),
            self.active_devices(&places)
        )?;
        let alarm = |excess: Excess| {
            let share = |rows: &HashMap<Place, ShareRow>| {
                let row = rows.get(&excess.place);
                row.map(|row| row.of(excess.kind)).unwrap_or_default()
            };
            let context = Context {
                now: share(&now),
                usual: share(&usual),
                active_devices: active.get(&excess.place.0).copied().unwrap_or_default(),
            };
            let severity = spike(excess.times, excess.trailing, &context)?;
            Some(excess.alarm(severity))
        };
        Ok(excesses.into_iter().filter_map(alarm).collect())
    }

    /// Where there are more errors or crashes than usual.
    async fn excesses(&self) -> Result<Vec<Excess>, ReadError> {
        let rows = self.errors().await?;
        let projects: BTreeSet<u64> = rows.iter().map(|row| row.project_id).collect();
        let projects: Vec<u64> = projects.into_iter().collect();
        if projects.is_empty() {
            return Ok(Vec::new());
        }
        let (hours, usual) = tokio::try_join!(self.hours(&projects), self.usual(&projects))?;
        let excess = |row: &TrailingRow, kind| {
            let place = (project(row.project_id), row.channel.clone());
            let (errors, crashes) = usual.get(&place).copied().unwrap_or_default();
            let baseline = Baseline {
                events: if kind == Kind::Crashes {
                    crashes
                } else {
                    errors
                },
                hours: hours.get(&row.project_id).copied().unwrap_or_default(),
            };
            let trailing = row.of(kind);
            Some(Excess {
                times: trailing.excess(kind, baseline)?,
                per_hour: baseline.per_hour()?,
                place,
                kind,
                trailing,
            })
        };
        let kinds = [Kind::Errors, Kind::Crashes];
        let all = rows
            .iter()
            .flat_map(|row| kinds.map(|kind| excess(row, kind)));
        Ok(all.flatten().collect())
    }

    /// Channels with enough errors in the trailing hour to be looked at.
    async fn errors(&self) -> Result<Vec<TrailingRow>, ReadError> {
        let rows = Statement::new(
            "SELECT project_id, channel, device, sum(count) AS n, \
             sumIf(count, type = 'crash') AS c FROM health_events WHERE",
        )
        .append(received(trailing_hour(self.now)))
        .push(" AND type IN ('js_error', 'crash') GROUP BY project_id, channel, device");
        let select = format!(
            "SELECT project_id, channel, sum(least(n, {DEVICE_CAP})) AS errors, \
             sum(least(c, {DEVICE_CAP})) AS crashes, countIf(device != 0) AS devices, \
             countIf(device != 0 AND c > 0) AS crash_devices FROM ("
        );
        let having = format!(
            ") GROUP BY project_id, channel HAVING errors > {} OR crashes > {}",
            Trailing::least(Kind::Errors),
            Trailing::least(Kind::Crashes)
        );
        self.reader
            .rows(Statement::new(&select).append(rows).push(&having))
            .await
    }

    /// How many hours of the day count, by project.
    async fn hours(&self, projects: &[u64]) -> Result<HashMap<u64, i64>, ReadError> {
        let first = Statement::new(
            "SELECT project_id, toUnixTimestamp(min(hour)) AS first FROM event_hours",
        )
        .with(" WHERE project_id IN ?", projects)
        .push(" GROUP BY project_id");
        let rows: Vec<FirstRow> = self.reader.rows(first).await?;
        let hours = |row: &FirstRow| {
            let first = DateTime::from_timestamp(i64::from(row.first), 0).unwrap_or(self.now);
            (row.project_id, Baseline::hours_since(first, self.now))
        };
        Ok(rows.iter().map(hours).collect())
    }

    /// Errors and crashes of the day, each device-hour capped.
    async fn usual(&self, projects: &[u64]) -> Result<HashMap<Place, (u64, u64)>, ReadError> {
        let rows = Statement::new(
            "SELECT project_id, channel, hour, device, sum(js_errors + crashes) AS n, \
             sum(crashes) AS c FROM device_hours",
        )
        .with(" WHERE project_id IN ?", projects)
        .append(hours_of(self.day()))
        .push(" AND js_errors + crashes > 0 GROUP BY project_id, channel, hour, device");
        let select = format!(
            "SELECT project_id, channel, sum(least(n, {DEVICE_CAP})) AS errors, \
             sum(least(c, {DEVICE_CAP})) AS crashes FROM ("
        );
        let sums = Statement::new(&select).append(rows);
        let sums = sums.push(") GROUP BY project_id, channel");
        let rows: Vec<BaselineRow> = self.reader.rows(sums).await?;
        let sums = rows.into_iter().map(|row| {
            let place = (project(row.project_id), row.channel);
            (place, (row.errors, row.crashes))
        });
        Ok(sums.collect())
    }
}

impl Excess {
    fn alarm(self, severity: Severity) -> Alarm {
        Alarm {
            place: self.place,
            kind: self.kind,
            severity,
            what: What::Errors {
                trailing: self.trailing,
                per_hour: self.per_hour,
            },
        }
    }
}

fn hours_of(window: Window) -> Statement {
    Statement::default()
        .with(" AND hour >= toDateTime(?, 'UTC')", window.from.timestamp())
        .with(" AND hour < toDateTime(?, 'UTC')", window.to.timestamp())
}

fn project(id: u64) -> ProjectId {
    ProjectId(id.cast_signed())
}
