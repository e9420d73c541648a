//! Short rounds of several variants in turn, and what a request costs in each:
//! what the benchmarks of CPU per request have in common.

use std::time::Duration;

use serde::Serialize;

use super::Measured;
use super::closed_loop::Load;
use crate::report::{median, table};

const UNIT: &str = "microseconds of CPU per request";

/// How to measure.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Options {
    /// Rounds that count; one more warms up.
    #[arg(long, default_value_t = 7)]
    pub rounds: usize,
    /// Length of a round of one variant, in seconds.
    #[arg(long, default_value_t = 3.0)]
    pub seconds: f64,
    /// Connections that send one request after the other.
    #[arg(long, default_value_t = 64)]
    pub connections: usize,
}

impl Options {
    /// The load of one round.
    pub fn load(self) -> Load {
        Load {
            lasts: Duration::from_secs_f64(self.seconds),
            connections: self.connections,
        }
    }
}

/// The rounds of one variant, of which the first does not count.
#[derive(Debug, Default)]
pub struct Rounds {
    cpu_us: Vec<f64>,
    per_second: Vec<f64>,
}

impl Rounds {
    /// Notes a round: requests, CPU time of the variant's process, time it took.
    pub fn add(&mut self, requests: u64, cpu: Duration, took: Duration) {
        self.cpu_us.push(cpu.as_secs_f64() * 1e6 / requests as f64);
        self.per_second.push(requests as f64 / took.as_secs_f64());
    }

    /// The medians.
    pub fn report(&self, name: &'static str) -> VariantReport {
        VariantReport {
            name,
            cpu_us_per_request: median(&self.cpu_us[1..]),
            requests_per_second: median(&self.per_second[1..]),
        }
    }
}

/// What is told of a variant.
#[derive(Debug, Serialize)]
pub struct VariantReport {
    pub(super) name: &'static str,
    pub(super) cpu_us_per_request: f64,
    pub(super) requests_per_second: f64,
}

/// `value` held to `least`, both in microseconds of CPU per request.
pub(super) fn measured(what: &'static str, value: f64, least: f64, limit: f64) -> Measured {
    Measured {
        what,
        ratio: value / least,
        limit,
        value,
        unit: UNIT,
    }
}

/// For people: the variants, then what is held to a bar.
pub(super) fn printed(variants: &[VariantReport], bars: [&Measured; 2]) -> String {
    let row = |v: &VariantReport| {
        vec![
            v.name.to_owned(),
            format!("{:.1}", v.cpu_us_per_request),
            format!("{:.0}", v.requests_per_second),
        ]
    };
    let rows: Vec<_> = variants.iter().map(row).collect();
    let bars = bars.map(|m| format!("{}: {:.2}, bar {:.1}\n", m.what, m.ratio, m.limit));
    table(&["variant", "CPU us/request", "requests/s"], &rows) + &bars.concat()
}

/// Whether no ratio is above its bar.
pub(super) fn are_met(bars: [&Measured; 2]) -> bool {
    bars.iter().all(|measured| measured.ratio <= measured.limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_round_does_not_count() {
        let mut rounds = Rounds::default();
        for cpu_ms in [9_000, 10, 20, 30] {
            rounds.add(1_000, Duration::from_millis(cpu_ms), Duration::from_secs(2));
        }
        let report = rounds.report("x");
        assert!((report.cpu_us_per_request - 20.0).abs() < 1e-9);
        assert!((report.requests_per_second - 500.0).abs() < 1e-9);
    }
}
