//! Thousands of open flag streams on one API process: what they take, how soon
//! a change is at all of them, and whether every one of them ends on the last
//! state when a flag changes faster than it can be told.
//!
//! The API is the program that is deployed, in a process of its own. Every
//! stream is a connection of its own, whose events are read and parsed here, so
//! the times are those at the devices; they share the machine with us. Changes
//! are made by the management API, one after the other.

mod device;

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::time::{Instant, sleep_until};

use self::device::{Devices, Heard};
use crate::flag_api::FlagApi;
use crate::process::{self, Memory};
use crate::{Error, workspace};

/// Resident memory of the API with all streams open, in MiB.
const MEMORY_LIMIT_MIB: f64 = 512.0;
/// From asking for a change to the last stream that has it, in milliseconds.
const CHANGE_LIMIT_MS: f64 = 2_000.0;
/// Descriptors for everything but streams.
const SPARE_FILES: u64 = 200;
/// How long to wait for what must come.
const PATIENCE: Duration = Duration::from_mins(1);

/// How to measure.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Options {
    /// Streams that are open when one flag changes.
    #[arg(long, default_value_t = 10_000)]
    pub streams: usize,
    /// Streams that stay open while one flag changes again and again.
    #[arg(long, default_value_t = 5_000)]
    pub burst_streams: usize,
    /// Single changes; the slowest counts.
    #[arg(long, default_value_t = 5)]
    pub changes: u64,
    /// Changes of the burst.
    #[arg(long, default_value_t = 100)]
    pub burst: u64,
    /// Length of the burst, in seconds.
    #[arg(long, default_value_t = 10.0)]
    pub burst_seconds: f64,
}

/// A figure and the most that it may be.
#[derive(Debug, Serialize)]
pub struct Bar {
    value: f64,
    limit: f64,
    unit: &'static str,
}

/// The outcome, as it is printed with `--json`.
#[derive(Debug, Serialize)]
pub struct Report {
    streams: usize,
    /// The most that was resident, with all streams open.
    memory: Bar,
    /// The same per stream, without what was resident before the first one.
    kib_per_stream: f64,
    /// Of the slowest change: half of the streams had it by then.
    change_p50_ms: f64,
    /// Of the slowest change: all but one of a hundred had it by then.
    change_p99_ms: f64,
    /// Of the slowest change: all had it by then.
    change_last: Bar,
    burst: Burst,
}

/// What came of many changes in a row.
#[derive(Debug, Serialize)]
struct Burst {
    streams: usize,
    changes: u64,
    /// How long the changes took, the answers to them included.
    took_ms: f64,
    /// Streams that do not end on the last state.
    behind: Bar,
    /// From the last change's request to the last stream that has it.
    last: Bar,
}

/// Measures, and returns the report; `say` gets a line for people now and then.
pub async fn run(options: Options, say: impl Fn(&str)) -> Result<Report, Error> {
    let streams = options.streams.max(options.burst_streams);
    process::allow_open_files(streams as u64 + SPARE_FILES)?;
    let dir = workspace::directory()?;
    say("starting Postgres, ClickHouse and the API");
    let api = FlagApi::start(dir.path()).await?;
    let measured = measure(&api, options, say).await;
    api.stop()?;
    workspace::remove(dir)?;
    measured
}

async fn measure(api: &FlagApi, options: Options, say: impl Fn(&str)) -> Result<Report, Error> {
    let before = Memory::of(api.pid())?;
    say(&format!("opening {} streams", options.streams));
    let heard = Heard::nothing();
    let mut devices = Devices::open(api.base_url(), options.streams, &heard).await?;
    let mut slowest = Change::default();
    for value in 1..=options.changes {
        let change = change(api, &heard, options.streams, value).await?;
        say(&format!("change {value}: {change:?}"));
        slowest = if change.last_ms > slowest.last_ms {
            change
        } else {
            slowest
        };
    }
    let memory = Memory::of(api.pid())?;
    devices.keep(options.burst_streams).await?;
    say(&format!(
        "{} changes with {} streams",
        options.burst, options.burst_streams
    ));
    let burst = burst(api, &heard, options).await?;
    devices.check()?;
    let streams = options.streams;
    Ok(Report {
        streams,
        memory: Bar {
            value: memory.peak_mib(),
            limit: MEMORY_LIMIT_MIB,
            unit: "MiB resident",
        },
        kib_per_stream: memory.kib_above(&before) / streams as f64,
        change_p50_ms: slowest.p50_ms,
        change_p99_ms: slowest.p99_ms,
        change_last: Bar {
            value: slowest.last_ms,
            limit: CHANGE_LIMIT_MS,
            unit: "ms from the request to the last stream",
        },
        burst,
    })
}

/// When a change was at the streams, in milliseconds after it was asked for.
#[allow(clippy::struct_field_names)] // units
#[derive(Clone, Copy, Debug, Default)]
struct Change {
    p50_ms: f64,
    p99_ms: f64,
    last_ms: f64,
}

async fn change(
    api: &FlagApi,
    heard: &Arc<Heard>,
    streams: usize,
    value: u64,
) -> Result<Change, Error> {
    heard.expect(value);
    let asked = Instant::now();
    api.set_counter(value).await?;
    let times = heard.wait_for(streams, PATIENCE).await;
    if times.len() < streams {
        let missing = streams - times.len();
        return Err(format!("{missing} streams were not told of a change").into());
    }
    Ok(Change::of(asked, &times))
}

impl Change {
    /// `times` are those at which streams had it, in order.
    fn of(asked: Instant, times: &[Instant]) -> Self {
        let at = |share: f64| {
            let index = ((times.len() as f64 * share).ceil() as usize).clamp(1, times.len());
            millis(times[index - 1] - asked)
        };
        Self {
            p50_ms: at(0.5),
            p99_ms: at(0.99),
            last_ms: at(1.0),
        }
    }
}

/// Changes the flag `options.burst` times, evenly over the time; the answer to
/// each is waited for.
async fn burst(api: &FlagApi, heard: &Arc<Heard>, options: Options) -> Result<Burst, Error> {
    let last = options.changes + options.burst;
    heard.expect(last);
    let every = Duration::from_secs_f64(options.burst_seconds / options.burst as f64);
    let (started, mut asked) = (Instant::now(), Instant::now());
    for number in 0..options.burst {
        sleep_until(started + every * number as u32).await;
        asked = Instant::now();
        api.set_counter(options.changes + 1 + number).await?;
    }
    let took_ms = millis(started.elapsed());
    let times = heard.wait_for(options.burst_streams, PATIENCE).await;
    let last = times.last().copied().unwrap_or_else(Instant::now);
    Ok(Burst {
        streams: options.burst_streams,
        changes: options.burst,
        took_ms,
        behind: Bar {
            value: (options.burst_streams - times.len()) as f64,
            limit: 0.0,
            unit: "streams that do not end on the last state",
        },
        last: Bar {
            value: millis(last - asked),
            limit: CHANGE_LIMIT_MS,
            unit: "ms from the last request to the last stream",
        },
    })
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

impl Bar {
    fn is_met(&self) -> bool {
        self.value <= self.limit
    }

    fn line(&self, what: &str) -> String {
        let Self { value, limit, unit } = self;
        format!("{what}: {value:.0} {unit}, bar {limit:.0}\n")
    }
}

impl Report {
    /// Whether all bars are met.
    pub fn is_met(&self) -> bool {
        let burst = &self.burst;
        [&self.memory, &self.change_last, &burst.behind, &burst.last]
            .iter()
            .all(|bar| bar.is_met())
    }

    /// For people.
    pub fn table(&self) -> String {
        let (streams, burst) = (self.streams, &self.burst);
        let (p50, p99) = (self.change_p50_ms, self.change_p99_ms);
        let per_stream = format!("{:.1} KiB for each stream\n", self.kib_per_stream);
        let shares = format!("half of them {p50:.0} ms, 99 of 100 {p99:.0} ms\n");
        let many = format!(
            "{} changes in {:.1} s, {} streams",
            burst.changes,
            burst.took_ms / 1e3,
            burst.streams
        );
        self.memory.line(&format!("{streams} streams"))
            + &per_stream
            + &self.change_last.line("slowest of the single changes")
            + &shares
            + &burst.last.line(&many)
            + &burst.behind.line(&many)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_those_of_the_streams() {
        let asked = Instant::now();
        let times: Vec<_> = (1..=200)
            .map(|ms| asked + Duration::from_millis(ms))
            .collect();
        let change = Change::of(asked, &times);
        let rounded = [change.p50_ms, change.p99_ms, change.last_ms].map(|ms| ms.round() as u64);
        assert_eq!(rounded, [100, 198, 200]);
    }
}
