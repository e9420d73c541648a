use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::insights::channels::{Channels, DefaultChannel};
use crate::insights::window::Window;
use crate::page::Whole;

const DEFAULT_HOURS: i64 = 24;
const MAX_HOURS: i64 = 720;

#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default)]
pub(crate) struct PerformanceQuery {
    /// So many hours, the last of which is running; nearest of 1 to 720.
    #[param(value_type = Option<i64>, format = "whole-number", default = 24)]
    pub(super) hours: Option<Whole>,
    /// Exactly this channel.
    pub(super) channel: Option<String>,
    /// Exactly this platform.
    pub(super) platform: Option<String>,
    /// Exactly this runtime version. Also `runtimeVersion`.
    pub(super) runtime_version: Option<String>,
}

/// What is asked of the store.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::insights) struct Question {
    pub(super) window: Window,
    pub(super) channels: Channels,
    pub(super) platform: Option<String>,
    pub(super) runtime_version: Option<String>,
}

impl Question {
    pub(super) fn new(
        query: PerformanceQuery,
        default_channel: &DefaultChannel,
        now: DateTime<Utc>,
    ) -> Self {
        let hours = Whole::clamped(query.hours, DEFAULT_HOURS, 1, MAX_HOURS);
        Self {
            window: Window::hours(now, hours),
            channels: default_channel.filter(query.channel),
            platform: query.platform,
            runtime_version: query.runtime_version,
        }
    }
}

/// Percentiles of some samples, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Percentiles {
    pub(super) p50: f64,
    pub(super) p95: f64,
    pub(super) p99: f64,
    /// Number of samples.
    pub(super) sample_count: u64,
}

/// An hour with samples.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PerformancePoint {
    /// Start of the hour.
    pub(super) bucket_hour: DateTime<Utc>,
    #[serde(flatten)]
    pub(super) percentiles: Percentiles,
}

/// What was measured under one name.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Metric {
    #[serde(rename = "metricName")]
    name: String,
    /// Newest first; only hours with samples.
    points: Vec<PerformancePoint>,
    /// The newest point.
    latest: Percentiles,
}

/// Metrics of points that come by name, and the newest of each first.
pub(super) fn metrics(points: impl IntoIterator<Item = (String, PerformancePoint)>) -> Vec<Metric> {
    let mut metrics: Vec<Metric> = Vec::new();
    for (name, point) in points {
        match metrics.last_mut() {
            Some(metric) if metric.name == name => metric.points.push(point),
            _ => metrics.push(Metric {
                name,
                points: vec![point],
                latest: point.percentiles,
            }),
        }
    }
    metrics
}

/// Percentiles by the hour.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Performance {
    /// By name.
    pub(super) metrics: Vec<Metric>,
    /// Up to which receipt everything is counted.
    pub(super) last_updated_at: Option<DateTime<Utc>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_gathered_by_name() {
        let percentiles = |p50: f64| Percentiles {
            p50,
            p95: p50,
            p99: p50,
            sample_count: 1,
        };
        let point = |hour: i64| PerformancePoint {
            bucket_hour: DateTime::from_timestamp(hour * 3_600, 0).expect("a time"),
            percentiles: percentiles(hour as f64),
        };
        let named = |name: &str, hour| (name.to_owned(), point(hour));
        let metrics = metrics([named("a", 2), named("a", 1), named("b", 3)]);
        assert_eq!(metrics.len(), 2);
        assert_eq!(metrics[0].points, [point(2), point(1)]);
        assert_eq!(metrics[0].latest, percentiles(2.0));
    }
}
