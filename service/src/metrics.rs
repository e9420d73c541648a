//! The metrics registry of the process and its Prometheus text.

use std::time::Duration;

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

/// Upper bounds of every histogram whose name ends in `_seconds`, in seconds.
const SECONDS: [f64; 16] = [
    0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
    15.0, 60.0,
];
/// Upper bounds of every other histogram: counts of rows, requests, bytes.
const COUNTS: [f64; 9] = [1.0, 10.0, 100.0, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8];

/// Renders the registry.
#[derive(Clone)]
pub struct MetricsHandle(PrometheusHandle);

/// How often samples are added up while nobody asks.
const UPKEEP_EVERY: Duration = Duration::from_secs(5);

impl MetricsHandle {
    /// Adds up the samples of histograms now and then, for good: they would pile
    /// up in memory where nobody scrapes.
    pub async fn keep_small(&self) {
        loop {
            tokio::time::sleep(UPKEEP_EVERY).await;
            self.0.run_upkeep();
        }
    }

    /// All metrics in the Prometheus text format.
    pub fn render(&self) -> String {
        self.0.run_upkeep();
        self.0.render()
    }
}

/// Makes the process's registry. Once per process.
pub fn install() -> Result<MetricsHandle, BuildError> {
    let handle = PrometheusBuilder::new()
        .set_buckets(&COUNTS)?
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)?
        .install_recorder()?;
    Ok(MetricsHandle(handle))
}
