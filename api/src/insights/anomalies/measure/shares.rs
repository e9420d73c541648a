//! Which share of sessions fails, and how many devices there are.

use std::collections::{BTreeSet, HashMap};

use chrono::TimeDelta;
use clickhouse::Row;
use serde::Deserialize;
use sluice_schema::id::ProjectId;

use super::{Looks, Place, hours_of, project, received, trailing_hour};
use crate::insights::anomalies::rules::{Kind, Share};
use crate::insights::reader::{ReadError, Statement, Value};
use crate::insights::window::{Window, start_of_hour};

#[derive(Clone, Row, Deserialize)]
pub(super) struct ShareRow {
    project_id: u64,
    channel: String,
    launches: u64,
    sessions: u64,
    failed: u64,
    crashed: u64,
}

#[derive(Row, Deserialize)]
struct ActiveRow {
    project_id: u64,
    devices: u64,
}

impl ShareRow {
    pub(super) fn of(&self, kind: Kind) -> Share {
        Share {
            launches: self.launches,
            sessions: self.sessions,
            failed: match kind {
                Kind::Crashes => self.crashed,
                _ => self.failed,
            },
        }
    }
}

/// Places to ask about, and others that share a project with one and a name with another.
pub(super) struct Places {
    projects: Vec<u64>,
    channels: Vec<String>,
}

impl Places {
    pub(super) fn of<'a>(places: impl Iterator<Item = &'a Place>) -> Self {
        let (mut projects, mut channels) = (BTreeSet::new(), BTreeSet::new());
        for (project, channel) in places {
            projects.insert(project.0.unsigned_abs());
            channels.insert(channel.clone());
        }
        Self {
            projects: projects.into_iter().collect(),
            channels: channels.into_iter().collect(),
        }
    }

    fn filter(&self) -> Statement {
        Statement::default()
            .with(" AND project_id IN ?", self.projects.as_slice())
            .with(" AND channel IN ?", self.channels.as_slice())
    }
}

impl Looks<'_> {
    /// Sessions of the trailing hour, which is taken for one.
    pub(super) async fn shares_now(
        &self,
        places: &Places,
    ) -> Result<HashMap<Place, ShareRow>, ReadError> {
        let device_hours = Statement::new(
            "SELECT project_id, channel, sumIf(count, type = 'app_launch') AS l, \
             sumIf(count, type = 'js_error') AS j, sumIf(count, type = 'crash') AS c, \
             least(greatest(l, 1), 10000) AS s FROM health_events WHERE type != 'perf_sample' AND",
        )
        .append(received(trailing_hour(self.now)))
        .append(places.filter())
        .push(
            " GROUP BY project_id, channel, platform, runtime_version, lowerUTF8(update_uuid), \
             device",
        );
        let sums = Statement::new(
            "SELECT project_id, channel, sum(l) AS launches, sum(s) AS sessions, \
             sum(least(j + c, s)) AS failed, sum(least(c, s)) AS crashed FROM (",
        );
        let sums = sums.append(device_hours);
        self.shares(sums.push(") GROUP BY project_id, channel"))
            .await
    }

    pub(super) async fn usual_shares(
        &self,
        places: &Places,
    ) -> Result<HashMap<Place, ShareRow>, ReadError> {
        let columns = "project_id, channel, L, S, E, EC";
        let Some(rows) = self.folded(self.day(), columns, &places.filter()) else {
            return Ok(HashMap::new());
        };
        let sums = Statement::new(
            "SELECT project_id, channel, sum(L) AS launches, sum(S) AS sessions, \
             sum(E) AS failed, sum(EC) AS crashed FROM (",
        );
        self.shares(sums.append(rows).push(") GROUP BY project_id, channel"))
            .await
    }

    async fn shares(&self, statement: Statement) -> Result<HashMap<Place, ShareRow>, ReadError> {
        let rows: Vec<ShareRow> = self.reader.rows(statement).await?;
        let by_place = rows.into_iter().map(|row| {
            let place = (project(row.project_id), row.channel.clone());
            (place, row)
        });
        Ok(by_place.collect())
    }

    /// Distinct devices of the day and the running hour.
    pub(super) async fn active_devices(
        &self,
        places: &Places,
    ) -> Result<HashMap<ProjectId, u64>, ReadError> {
        let window = Window {
            to: start_of_hour(self.now) + TimeDelta::hours(1),
            ..self.day()
        };
        let filter = Statement::default().with(" AND project_id IN ?", places.projects.as_slice());
        let Some(rows) = self.folded(window, "project_id, U", &filter) else {
            return Ok(HashMap::new());
        };
        let merged =
            Statement::new("SELECT project_id, uniqCombined64Merge(16)(U) AS devices FROM (");
        let merged = merged.append(rows).push(") GROUP BY project_id");
        let rows: Vec<ActiveRow> = self.reader.rows(merged).await?;
        let devices = rows
            .iter()
            .map(|row| (project(row.project_id), row.devices));
        Ok(devices.collect())
    }

    /// Folded rows of hours that fit a filter; `None` where nothing is folded.
    fn folded(&self, window: Window, columns: &str, filter: &Statement) -> Option<Statement> {
        let versions = self.folds.hours(window);
        let parts = [("hourly", &versions.hours), ("hourly_now", &versions.now)];
        let named = parts
            .into_iter()
            .filter(|(_, versions)| !versions.is_empty());
        let selects = named.map(|(table, versions)| {
            Statement::new(&format!("SELECT {columns} FROM {table}"))
                .with(" WHERE ver IN ?", Value::from(versions.as_slice()))
                .append(hours_of(window))
                .append(filter.clone())
        });
        let union = Statement::join(selects, " UNION ALL ");
        (!union.is_empty()).then_some(union)
    }
}
