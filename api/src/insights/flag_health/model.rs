//! What flag health asks of the store, and how a slice looks on the wire.

use std::collections::HashMap;
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;
use utoipa::ToSchema;

use super::catalogue::{Flag, Slot};
use crate::insights::channels::{Channels, DefaultChannel};
use crate::insights::metrics::{Percent, Status, Sums};
use crate::insights::window::Window;

/// What is asked of the store.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::insights) struct Question {
    pub(super) flags: Arc<Vec<Flag>>,
    pub(super) grain: Grain,
    pub(super) span: Span,
    pub(super) channels: Channels,
    /// As which channel the slices of `default` are shown.
    pub(super) default_channel: DefaultChannel,
    pub(super) platform: Option<String>,
    pub(super) runtime_version: Option<String>,
}

/// What a slice is one of, besides a flag's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Grain {
    /// A channel.
    Channel,
    /// A channel and runtime version.
    Runtime,
    /// A channel, runtime version and update.
    Update,
}

/// How far a window reaches, in which steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Span {
    /// Hours before the running one, which is in it too.
    Hours { window: Window, hours: i64 },
    /// Dates, of which the last is today.
    Days { window: Window, days: i64 },
}

impl Span {
    pub(super) fn hours(now: DateTime<Utc>, hours: i64) -> Self {
        let window = Window::trailing_hours(now, hours);
        Self::Hours { window, hours }
    }

    pub(super) fn days(now: DateTime<Utc>, days: i64) -> Self {
        let window = Window::days(now, days);
        Self::Days { window, days }
    }

    pub(super) fn window(self) -> Window {
        match self {
            Self::Hours { window, .. } | Self::Days { window, .. } => window,
        }
    }

    /// The same length just before: the baseline.
    pub(super) fn baseline(self) -> Self {
        match self {
            Self::Hours { window, hours } => Self::Hours {
                window: window.preceding(TimeDelta::hours(hours)),
                hours,
            },
            Self::Days { window, days } => Self::Days {
                window: window.preceding(TimeDelta::days(days)),
                days,
            },
        }
    }
}

/// Which slice of the events.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct SliceKey {
    /// Place of the flag in the question.
    pub(super) flag: usize,
    pub(super) slot: Slot,
    pub(super) channel: String,
    /// Empty where the grain has none.
    pub(super) runtime_version: String,
    /// Empty where the grain has none, or the device said none.
    pub(super) update_uuid: String,
}

/// A slice with at least one launch.
#[derive(Clone, Debug)]
pub(super) struct Slice {
    pub(super) key: SliceKey,
    /// The runtime version with most device-hours.
    pub(super) main_runtime: String,
    pub(super) sums: Sums,
    pub(super) devices: Devices,
}

/// Distinct devices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Devices {
    /// `U`.
    pub(super) all: u64,
    /// `UE`.
    pub(super) errored: u64,
}

/// What the store has for a question.
#[derive(Debug, Default)]
pub(in crate::insights) struct Slices {
    pub(super) rows: Vec<Slice>,
    /// Of the union of the rows.
    pub(super) devices: Devices,
    /// Sums of slices in the window before.
    pub(super) baseline: HashMap<SliceKey, Sums>,
}

impl Slices {
    pub(super) fn baseline_of(&self, key: &SliceKey) -> Sums {
        self.baseline.get(key).copied().unwrap_or_default()
    }
}

/// Rates and counts of a slice.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Rates {
    /// Percent of sessions with an error or a crash.
    #[schema(value_type = f64)]
    pub(super) error_rate: Percent,
    /// Change from the window before, in percentage points.
    #[schema(value_type = f64)]
    pub(super) error_rate_delta: Percent,
    /// 95 % interval of the error rate for so many devices.
    #[schema(value_type = f64)]
    error_rate_low: Percent,
    #[schema(value_type = f64)]
    error_rate_high: Percent,
    /// Percent of sessions without a crash.
    #[schema(value_type = f64)]
    crash_free: Percent,
    /// Distinct devices with an error or a crash.
    errored_devices: u64,
    launches: u64,
    errors: u64,
    crashes: u64,
    sessions: u64,
    device_hours: u64,
    /// Percent of errors and crashes per launch, 100 at most; null without launches.
    #[schema(value_type = Option<f64>)]
    launch_error_rate: Option<Percent>,
}

impl Rates {
    pub(super) fn new(sums: &Sums, baseline: &Sums, devices: Devices) -> Self {
        let (error_rate_low, error_rate_high) = sums.error_rate_interval(devices.all);
        Self {
            error_rate: sums.error_rate(),
            error_rate_delta: sums.error_rate_since(baseline),
            error_rate_low,
            error_rate_high,
            crash_free: sums.crash_free(),
            errored_devices: devices.errored,
            launches: sums.launches,
            errors: sums.js_errors,
            crashes: sums.crashes,
            sessions: sums.sessions,
            device_hours: sums.device_hours,
            launch_error_rate: sums.launch_error_rate(),
        }
    }
}

/// The worst of some slices.
pub(super) fn worst<'a>(slices: impl IntoIterator<Item = &'a Slice>) -> Status {
    let statuses = slices.into_iter().map(|slice| slice.sums.status());
    statuses.max().unwrap_or(Status::Healthy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_baseline_ends_where_its_window_begins() {
        let now = "2026-03-01T12:30:00Z".parse().expect("an instant");
        for (span, length) in [
            (Span::hours(now, 24), TimeDelta::hours(24)),
            (Span::days(now, 7), TimeDelta::days(7)),
        ] {
            let (window, before) = (span.window(), span.baseline().window());
            assert_eq!(before.to, window.from);
            assert_eq!(before.to - before.from, length);
        }
    }
}
