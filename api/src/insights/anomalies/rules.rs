//! What is an anomaly, and what becomes of it (telemetry.md §6). Values in, a
//! verdict out.

use chrono::{DateTime, TimeDelta, Utc};

use crate::insights::window::{Window, start_of_hour};

/// A device's errors count up to this in an hour.
pub(super) const DEVICE_CAP: u64 = 100;
/// The hours that say what is usual.
pub(super) const BASELINE_HOURS: i64 = 24;
/// With fewer of them nothing is usual yet.
const LEAST_HOURS: i64 = 3;
/// Times the usual from which on something is one, and from which on it is worse.
const SPIKE: f64 = 2.0;
const CRITICAL_SPIKE: f64 = 5.0;
const SLOW: f64 = 2.0;
const VERY_SLOW: f64 = 4.0;
/// A project with fewer active devices cannot be asked for two with an error.
const FEW_DEVICES: u64 = 5;
/// Fewer samples say nothing about a percentile.
pub(super) const LEAST_SAMPLES: u64 = 50;
/// Quiet for so long is over.
const QUIET: TimeDelta = TimeDelta::hours(2);

/// What can spike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Kind {
    /// JS errors and crashes.
    Errors,
    /// Crashes alone.
    Crashes,
    /// A performance sample's p95.
    Latency,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Errors, Self::Crashes, Self::Latency];

    /// On the wire, and as stored.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Errors => "error_spike",
            Self::Crashes => "crash_spike",
            Self::Latency => "latency_spike",
        }
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Severity {
    Info,
    Warning,
    Critical,
}

impl Severity {
    const ALL: [Self; 3] = [Self::Info, Self::Warning, Self::Critical];

    /// On the wire, and as stored.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|severity| severity.as_str() == text)
    }

    /// Of an open row.
    pub(super) fn status(self) -> &'static str {
        match self {
            Self::Info | Self::Warning => "degraded",
            Self::Critical => "incident",
        }
    }
}

/// Whole hours before the running one.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Baseline {
    /// Of all of them, each device-hour capped.
    pub(super) events: u64,
    /// How many of them there are since the project's first event.
    pub(super) hours: i64,
}

impl Baseline {
    /// The usual number in an hour, at least 1; none where nothing is usual yet.
    pub(super) fn per_hour(self) -> Option<f64> {
        self.least_one()
            .map(|events| events as f64 / self.hours as f64)
    }

    /// Events of all the hours, at least one in each.
    fn least_one(self) -> Option<u64> {
        (self.hours >= LEAST_HOURS).then(|| self.events.max(self.hours.unsigned_abs()))
    }

    /// How many times the usual so many events in an hour are. One division, so
    /// that twice is twice.
    fn times(self, events: u64) -> Option<f64> {
        let of_hours = (events * self.hours.unsigned_abs()) as f64;
        Some(of_hours / self.least_one()? as f64)
    }

    /// How many of the hours before the running one count.
    pub(super) fn hours_since(first: DateTime<Utc>, now: DateTime<Utc>) -> i64 {
        let hours = (start_of_hour(now) - start_of_hour(first)).num_hours();
        hours.clamp(0, BASELINE_HOURS)
    }
}

/// Sessions (telemetry.md §4.1), and those that failed in the way that is looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Share {
    pub(super) launches: u64,
    pub(super) sessions: u64,
    pub(super) failed: u64,
}

/// Errors, or crashes, of a channel in the trailing hour.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Trailing {
    /// Each device capped.
    pub(super) events: u64,
    /// Distinct devices with one.
    pub(super) devices: u64,
}

impl Trailing {
    /// How many are too many, whatever else holds.
    pub(super) fn least(kind: Kind) -> u64 {
        match kind {
            Kind::Crashes => 2,
            _ => 5,
        }
    }

    /// How many times the usual it is, where that is too many. Its cause may
    /// still be more traffic.
    pub(super) fn excess(self, kind: Kind, baseline: Baseline) -> Option<f64> {
        let times = baseline.times(self.events)?;
        (self.events > Self::least(kind) && times > SPIKE).then_some(times)
    }
}

/// What decides whether an excess is an anomaly.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Context {
    /// Of the trailing hour.
    pub(super) now: Share,
    /// Of the whole hours before the running one.
    pub(super) usual: Share,
    /// Distinct devices of the project in a day.
    pub(super) active_devices: u64,
}

/// Whether an excess of so many times the usual is a spike, and how bad.
pub(super) fn spike(times: f64, trailing: Trailing, context: &Context) -> Option<Severity> {
    let enough_devices = trailing.devices >= 2 || context.active_devices < FEW_DEVICES;
    let is_one = enough_devices && context.share_rose();
    is_one.then_some(if times > CRITICAL_SPIKE {
        Severity::Critical
    } else {
        Severity::Warning
    })
}

impl Context {
    /// Whether more than twice the usual share of sessions fails, so that it is
    /// no growth of traffic. Without launches in either window nobody can tell.
    fn share_rose(&self) -> bool {
        let Self { now, usual, .. } = *self;
        if now.launches == 0 || usual.launches == 0 {
            return true;
        }
        let cross = |failed: u64, sessions: u64| u128::from(failed) * u128::from(sessions);
        cross(now.failed, usual.sessions) > 2 * cross(usual.failed, now.sessions)
    }
}

/// The p95 of some samples, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Latency {
    pub(super) p95_ms: f64,
    pub(super) samples: u64,
}

impl Latency {
    /// How bad it is beside the usual one, if it is.
    pub(super) fn beside(self, usual: Self) -> Option<Severity> {
        let enough = self.samples.min(usual.samples) >= LEAST_SAMPLES;
        if !enough || self.p95_ms <= SLOW * usual.p95_ms {
            return None;
        }
        Some(if self.p95_ms > VERY_SLOW * usual.p95_ms {
            Severity::Warning
        } else {
            Severity::Info
        })
    }
}

/// The row that is open, or else one that began in the running hour.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Known {
    pub(super) open: bool,
    pub(super) severity: Severity,
    pub(super) detected_at: DateTime<Utc>,
    pub(super) quiet_since: Option<DateTime<Utc>>,
}

/// What becomes of the rows of one project, kind and channel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Step {
    Nothing,
    /// A new row.
    Open(Severity),
    /// The open row is of this severity, and not quiet.
    Go(Severity),
    /// The open row is quiet since then.
    Quiet(DateTime<Utc>),
    /// The open row is healthy.
    Resolve,
}

/// What to do about a severity, or none, that the trailing hour `seen` shows.
pub(super) fn step(known: Option<&Known>, found: Option<Severity>, seen: Window) -> Step {
    let now = seen.to;
    match (known, found) {
        (Some(open), Some(severity)) if open.open => Step::Go(severity.max(open.severity)),
        (Some(open), None) if open.open => {
            let since = open.quiet_since.unwrap_or(seen.from);
            match open.quiet_since {
                _ if now - since >= QUIET => Step::Resolve,
                None => Step::Quiet(since),
                Some(_) => Step::Nothing,
            }
        }
        (Some(over), Some(_)) if start_of_hour(over.detected_at) == start_of_hour(now) => {
            Step::Nothing
        }
        (_, Some(severity)) => Step::Open(severity),
        (_, None) => Step::Nothing,
    }
}

#[cfg(test)]
mod tests;
