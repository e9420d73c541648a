use chrono::DateTime;
use clickhouse::Row;
use serde::Deserialize;
use sluice_schema::clickhouse::folds::PERCENTILES;
use sluice_schema::id::ProjectId;

use super::model::{Metric, Percentiles, PerformancePoint, Question, metrics};
use crate::insights::reader::{ReadError, Reader, Statement};

#[derive(Row, Deserialize)]
struct HourRow {
    name: String,
    at: u32,
    sample_count: u64,
    /// p50, p95, p99.
    quantiles: Vec<f64>,
}

impl HourRow {
    fn point(self) -> Option<(String, PerformancePoint)> {
        let [p50, p95, p99] = self.quantiles.try_into().ok()?;
        let point = PerformancePoint {
            bucket_hour: DateTime::from_timestamp(i64::from(self.at), 0)?,
            percentiles: Percentiles {
                p50,
                p95,
                p99,
                sample_count: self.sample_count,
            },
        };
        Some((self.name, point))
    }
}

/// All metrics of a project in the window of a question.
pub(super) async fn read(
    reader: &Reader,
    project: ProjectId,
    question: &Question,
) -> Result<Vec<Metric>, ReadError> {
    let select = format!(
        "SELECT toString(metric) AS name, toUnixTimestamp(hour) AS at, {PERCENTILES} \
         FROM perf_hours"
    );
    let hours = Statement::new(&select)
        .with(" WHERE project_id = ?", project.0)
        .with(
            " AND hour >= toDateTime(?, 'UTC')",
            question.window.from.timestamp(),
        )
        .with(
            " AND hour < toDateTime(?, 'UTC')",
            question.window.to.timestamp(),
        )
        .append(question.channels.clause())
        .with_some(" AND platform = ?", question.platform.as_deref())
        .with_some(
            " AND runtime_version = ?",
            question.runtime_version.as_deref(),
        )
        .push(" GROUP BY metric, hour ORDER BY name, hour DESC");
    let rows: Vec<HourRow> = reader.rows(hours).await?;
    Ok(metrics(rows.into_iter().filter_map(HourRow::point)))
}
