//! Where performance samples are slower than usual.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use clickhouse::Row;
use serde::Deserialize;

use super::{Alarm, Looks, Place, What, hours_of, project, received, trailing_hour};
use crate::insights::anomalies::rules::{Kind, LEAST_SAMPLES, Latency};
use crate::insights::reader::{ReadError, Statement};

/// Samples whose p95 is watched.
const METRICS: [&str; 2] = ["startup_cold", "update_download"];

#[derive(Row, Deserialize)]
struct LatencyRow {
    project_id: u64,
    channel: String,
    metric: String,
    samples: u64,
    p95_ms: f64,
}

impl LatencyRow {
    fn latency(&self) -> Latency {
        Latency {
            p95_ms: self.p95_ms,
            samples: self.samples,
        }
    }

    fn alarm(self, usual: Latency) -> Option<Alarm> {
        let now = self.latency();
        Some(Alarm {
            severity: now.beside(usual)?,
            place: (project(self.project_id), self.channel),
            kind: Kind::Latency,
            what: What::Latency {
                metric: self.metric,
                now,
                usual,
            },
        })
    }
}

impl Looks<'_> {
    /// The slowest of the watched metrics in each channel that is slow.
    pub(super) async fn slow(&self) -> Result<Vec<Alarm>, ReadError> {
        let now = self.latencies_now().await?;
        let projects: BTreeSet<u64> = now.iter().map(|row| row.project_id).collect();
        if projects.is_empty() {
            return Ok(Vec::new());
        }
        let projects: Vec<u64> = projects.into_iter().collect();
        let usual = self.usual_latencies(&projects).await?;
        let mut worst: BTreeMap<Place, Alarm> = BTreeMap::new();
        for row in now {
            let key = (row.project_id, row.channel.clone(), row.metric.clone());
            let Some(alarm) = usual.get(&key).and_then(|usual| row.alarm(*usual)) else {
                continue;
            };
            let known = worst.get(&alarm.place);
            if known.is_none_or(|known| known.severity < alarm.severity) {
                worst.insert(alarm.place.clone(), alarm);
            }
        }
        Ok(worst.into_values().collect())
    }

    async fn latencies_now(&self) -> Result<Vec<LatencyRow>, ReadError> {
        let metrics = METRICS.map(str::to_owned);
        let rows = Statement::new(
            "SELECT project_id, channel, name AS metric, count() AS samples, \
             toFloat64(quantileTDigest(0.95)(duration_ms)) AS p95_ms FROM health_events WHERE",
        )
        .append(received(trailing_hour(self.now)))
        .push(" AND type = 'perf_sample'")
        .with(" AND name IN ?", metrics.as_slice())
        .push(" GROUP BY project_id, channel, metric")
        .push(&format!(
            " HAVING samples >= {LEAST_SAMPLES} ORDER BY metric"
        ));
        self.reader.rows(rows).await
    }

    async fn usual_latencies(
        &self,
        projects: &[u64],
    ) -> Result<HashMap<(u64, String, String), Latency>, ReadError> {
        let metrics = METRICS.map(str::to_owned);
        let rows = Statement::new(
            "SELECT project_id, channel, metric, sum(n) AS samples, \
             toFloat64(arrayElement(quantilesTDigestMerge(0.5, 0.95, 0.99)(sketch), 2)) AS p95_ms \
             FROM perf_hours",
        )
        .with(" WHERE project_id IN ?", projects)
        .append(hours_of(self.day()))
        .with(" AND metric IN ?", metrics.as_slice())
        .push(" GROUP BY project_id, channel, metric");
        let rows: Vec<LatencyRow> = self.reader.rows(rows).await?;
        let latencies = rows.into_iter().map(|row| {
            let latency = row.latency();
            ((row.project_id, row.channel, row.metric), latency)
        });
        Ok(latencies.collect())
    }
}
