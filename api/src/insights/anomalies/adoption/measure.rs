//! How many devices there are where an update should be, and how many have it:
//! of the last 24 hours, and of the 24 before. From requests of the manifest
//! endpoint and from health events, because either may be all that a device sends.

use std::collections::{BTreeSet, HashMap};

use chrono::{DateTime, TimeDelta, Utc};
use clickhouse::Row;
use serde::Deserialize;
use uuid::Uuid;

use super::Reach;
use super::store::Candidate;
use crate::insights::downloads::store::OF_CLIENT;
use crate::insights::reader::{ReadError, Reader, Statement};

/// Channel, platform and runtime version of a project.
type Place = (u64, String, String, String);

#[derive(Row, Deserialize)]
struct ReachRow {
    project_id: u64,
    channel: String,
    platform: String,
    runtime_version: String,
    today: bool,
    update: String,
    devices: u64,
}

/// For each candidate the reach of the last 24 hours and of the 24 before.
pub(super) async fn reaches(
    reader: &Reader,
    candidates: &[Candidate],
    now: DateTime<Utc>,
) -> Result<Vec<(Reach, Reach)>, ReadError> {
    let rows: Vec<ReachRow> = reader.rows(Look::new(candidates, now).devices()).await?;
    let mut active: HashMap<(Place, bool), u64> = HashMap::new();
    let mut having: HashMap<(Place, bool, Uuid), u64> = HashMap::new();
    for row in rows {
        let place = (
            row.project_id,
            row.channel,
            row.platform,
            row.runtime_version,
        );
        *active.entry((place.clone(), row.today)).or_default() += row.devices;
        let update = row.update.parse().unwrap_or_default();
        having.insert((place, row.today, update), row.devices);
    }
    let reach = |candidate: &Candidate, today| {
        let (place, update) = (place(candidate), candidate.update_uuid);
        Reach {
            having: having
                .get(&(place.clone(), today, update))
                .copied()
                .unwrap_or_default(),
            active: active.get(&(place, today)).copied().unwrap_or_default(),
        }
    };
    let both = candidates
        .iter()
        .map(|candidate| (reach(candidate, true), reach(candidate, false)));
    Ok(both.collect())
}

fn place(candidate: &Candidate) -> Place {
    let Candidate {
        channel,
        platform,
        runtime_version,
        ..
    } = candidate.clone();
    let project = candidate.project_id.unsigned_abs();
    (project, channel, platform, runtime_version)
}

struct Look {
    projects: Vec<u64>,
    channels: Vec<String>,
    runtimes: Vec<String>,
    updates: Vec<String>,
    now_s: i64,
}

impl Look {
    fn new(candidates: &[Candidate], now: DateTime<Utc>) -> Self {
        let texts = |of: fn(&Candidate) -> String| -> Vec<String> {
            let distinct: BTreeSet<String> = candidates.iter().map(of).collect();
            distinct.into_iter().collect()
        };
        let projects: BTreeSet<u64> = candidates
            .iter()
            .map(|candidate| candidate.project_id.unsigned_abs())
            .collect();
        Self {
            projects: projects.into_iter().collect(),
            channels: texts(|candidate| candidate.channel.clone()),
            runtimes: texts(|candidate| candidate.runtime_version.clone()),
            updates: texts(|candidate| candidate.update_uuid.to_string()),
            now_s: now.timestamp(),
        }
    }

    /// Distinct devices by place, day and the update that they have; nil for
    /// any update that nobody asks for.
    fn devices(&self) -> Statement {
        let day_ago_s = self.now_s - TimeDelta::hours(24).num_seconds();
        let newest = Statement::default()
            .with(
                &format!(
                    "SELECT project_id, channel, platform, runtime_version, at > ? AS today, \
                     if(device != 0, device, {OF_CLIENT}) AS identity, \
                     maxIf((at, served, evidence.update), notEmpty(evidence.update)).3 AS newest \
                     FROM ("
                ),
                day_ago_s,
            )
            .append(self.evidence())
            .push(") AS evidence ANY LEFT JOIN (")
            .append(self.links())
            .push(
                ") AS links USING (project_id, client) GROUP BY project_id, channel, platform, \
                 runtime_version, today, identity",
            );
        Statement::new(
            "SELECT project_id, toString(channel) AS channel, toString(platform) AS platform, \
             toString(runtime_version) AS runtime_version, today, ",
        )
        .with(
            "if(toString(newest) IN ?, toString(newest), '') AS update, count() AS devices FROM (",
            self.updates.as_slice(),
        )
        .append(newest)
        .push(") GROUP BY project_id, channel, platform, runtime_version, today, update")
    }

    /// What devices said in two days: when, and what they had.
    fn evidence(&self) -> Statement {
        let ran = Statement::new(
            "SELECT project_id, channel, platform, runtime_version, device, toUInt64(0) AS client, \
             toUnixTimestamp(hour) AS at, toUInt8(0) AS served, \
             toUUIDOrZero(update_uuid) AS update FROM device_hours WHERE device != 0",
        )
        .append(self.within("toUnixTimestamp(hour)", "hour"));
        let asked = Statement::new(
            "SELECT project_id, channel, platform, runtime_version, device, client, \
             toUnixTimestamp(received_at) AS at, notEmpty(served_update) AS served, \
             if(notEmpty(served_update), served_update, current_update) AS update \
             FROM manifest_requests WHERE (device != 0 OR client != 0)",
        )
        .append(self.within("toUnixTimestamp(received_at)", "received_at"));
        ran.push(" UNION ALL ").append(asked)
    }

    /// Which device a client is, of clients that came without one.
    fn links(&self) -> Statement {
        let clients = Statement::new("SELECT client FROM manifest_requests WHERE device = 0")
            .append(self.within("toUnixTimestamp(received_at)", "received_at"));
        Statement::default()
            .with(
                "SELECT project_id, client, argMaxMerge(newest) AS linked FROM client_devices \
                 WHERE project_id IN ?",
                self.projects.as_slice(),
            )
            .push(" AND client IN (")
            .append(clients)
            .push(") GROUP BY project_id, client")
    }

    /// Rows of the places, of two days by `seconds`; `column` is what they are sorted by.
    fn within(&self, seconds: &str, column: &str) -> Statement {
        let from_s = self.now_s - TimeDelta::hours(48).num_seconds();
        Statement::default()
            .with(" AND project_id IN ?", self.projects.as_slice())
            .with(" AND channel IN ?", self.channels.as_slice())
            .with(" AND runtime_version IN ?", self.runtimes.as_slice())
            .with(&format!(" AND {column} >= toDateTime(?, 'UTC')"), from_s)
            .with(&format!(" AND {seconds} <= ?"), self.now_s)
    }
}
