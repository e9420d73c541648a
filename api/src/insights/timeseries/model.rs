use std::collections::HashMap;
use std::sync::Arc;

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::insights::channels::{Channels, DefaultChannel};
use crate::insights::downloads::model::FirstServed;
use crate::insights::metrics::{Percent, Sums};
use crate::insights::window::Window;
use crate::page::Whole;

const DEFAULT_DAYS: i64 = 14;
const MAX_DAYS: i64 = 90;
const MAX_DAYS_BY_HOUR: i64 = 7;

#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default)]
pub(crate) struct TimeseriesQuery {
    /// So many UTC dates, the last of which is today; nearest of 1 to 90. Also `period=14d`.
    #[param(value_type = Option<i64>, format = "whole-number", default = 14)]
    pub(super) days: Option<Whole>,
    /// `day` or `hour`; by the hour at most 7 days.
    #[param(default = "day")]
    pub(super) bucket: Option<String>,
    /// Exactly this channel.
    pub(super) channel: Option<String>,
    /// Exactly this platform.
    pub(super) platform: Option<String>,
    /// Only events of devices that hold this flag. Also `flagKey`.
    pub(super) flag_key: Option<String>,
}

/// Length of a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::insights) enum Bucket {
    Day,
    Hour,
}

impl Bucket {
    /// By its name; a day if there is none of that name.
    pub(in crate::insights) fn named(name: Option<&str>) -> Self {
        match name {
            Some("hour") => Self::Hour,
            _ => Self::Day,
        }
    }

    /// The function of ClickHouse that gives the start of an instant's bucket.
    pub(in crate::insights) fn start(self) -> &'static str {
        match self {
            Self::Day => "toStartOfDay",
            Self::Hour => "toStartOfHour",
        }
    }

    fn length(self) -> TimeDelta {
        match self {
            Self::Day => TimeDelta::days(1),
            Self::Hour => TimeDelta::hours(1),
        }
    }
}

/// What is asked of the store.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::insights) struct Question {
    pub(super) window: Window,
    pub(super) bucket: Bucket,
    pub(super) filter: Filter,
}

/// Which events count.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Filter {
    pub(super) channels: Channels,
    pub(super) platform: Option<String>,
    pub(super) flag_key: Option<String>,
}

impl Question {
    pub(super) fn new(
        query: TimeseriesQuery,
        default_channel: &DefaultChannel,
        now: DateTime<Utc>,
    ) -> Self {
        let bucket = Bucket::named(query.bucket.as_deref());
        let most = match bucket {
            Bucket::Day => MAX_DAYS,
            Bucket::Hour => MAX_DAYS_BY_HOUR,
        };
        let default = DEFAULT_DAYS.min(most);
        let days = Whole::clamped(query.days, default, 1, most);
        Self {
            window: Self::window(bucket, days, now),
            bucket,
            filter: Filter {
                channels: default_channel.filter(query.channel),
                platform: query.platform,
                flag_key: query.flag_key,
            },
        }
    }

    /// Whole days; by the hour, today ends with the running hour.
    fn window(bucket: Bucket, days: i64, now: DateTime<Utc>) -> Window {
        let window = Window::days(now, days);
        match bucket {
            Bucket::Day => window,
            Bucket::Hour => Window {
                to: Window::hours(now, 1).to,
                ..window
            },
        }
    }

    /// The same of all events, if this is of some.
    pub(super) fn unfiltered(&self) -> Option<Self> {
        let all = Self {
            filter: Filter::default(),
            ..self.clone()
        };
        (all != *self).then_some(all)
    }

    /// What it asks about downloads, which know nothing of flags.
    pub(super) fn of_downloads(&self) -> Self {
        let mut question = self.clone();
        question.filter.flag_key = None;
        question
    }

    /// What it asks about evaluations, which know nothing of platforms.
    pub(super) fn of_evaluations(&self) -> Self {
        let mut question = self.clone();
        question.filter.platform = None;
        question
    }

    /// A point for each bucket of the window.
    pub(super) fn points(&self, data: &Data) -> Vec<Point> {
        let starts = std::iter::successors(Some(self.window.from), |at| {
            Some(*at + self.bucket.length())
        });
        let starts = starts.take_while(|at| *at < self.window.to);
        starts.map(|at| Point::new(at, data)).collect()
    }
}

/// Sums of events and distinct devices by bucket (start in seconds since 1970).
pub(in crate::insights) type Events = HashMap<i64, (Sums, u64)>;

/// Evaluations of flags by bucket.
pub(in crate::insights) type FlagEvals = HashMap<i64, u64>;

/// What the store has. Each part is remembered by itself, because each grows old
/// in a way of its own: events with the folds, the others by the clock.
#[derive(Debug, Default)]
pub(super) struct Data {
    pub(super) events: Arc<Events>,
    pub(super) flag_evals: Arc<FlagEvals>,
    pub(super) updates: Arc<FirstServed>,
}

impl Data {
    /// Whether there were neither events nor evaluations nor downloads.
    pub(super) fn is_empty(&self) -> bool {
        self.events.is_empty() && self.flag_evals.is_empty() && !self.updates.any
    }
}

/// A bucket.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Point {
    /// UTC date of the bucket.
    date: NaiveDate,
    /// Start of the bucket.
    bucket_time: DateTime<Utc>,
    /// Percent of sessions with an error or a crash.
    #[schema(value_type = f64)]
    error_rate: Percent,
    /// Percent of sessions without a crash.
    #[schema(value_type = f64)]
    crash_free: Percent,
    /// Evaluations of flags.
    flag_evals: u64,
    /// Distinct (device, update) first served.
    updates: u64,
    /// Distinct devices.
    devices: u64,
    /// JS errors that were not crashes.
    errors: u64,
    /// Crashes.
    crashes: u64,
    /// Launches.
    launches: u64,
    /// Sessions, the base of the rates.
    sessions: u64,
    /// (Device, hour) pairs with events.
    device_hours: u64,
    /// Percent of errors and crashes per launch, 100 at most; null without launches.
    #[schema(value_type = Option<f64>)]
    launch_error_rate: Option<Percent>,
}

impl Point {
    fn new(at: DateTime<Utc>, data: &Data) -> Self {
        let bucket = at.timestamp();
        let (sums, devices) = data.events.get(&bucket).copied().unwrap_or_default();
        let number = |of: &HashMap<i64, u64>| of.get(&bucket).copied().unwrap_or_default();
        Self {
            date: at.date_naive(),
            bucket_time: at,
            error_rate: sums.error_rate(),
            crash_free: sums.crash_free(),
            flag_evals: number(&data.flag_evals),
            updates: number(&data.updates.by_bucket),
            devices,
            errors: sums.js_errors,
            crashes: sums.crashes,
            launches: sums.launches,
            sessions: sums.sessions,
            device_hours: sums.device_hours,
            launch_error_rate: sums.launch_error_rate(),
        }
    }
}

/// A point for each bucket.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Timeseries {
    /// Ascending; empty if the project has no data in the window.
    pub(super) data: Vec<Point>,
    /// Up to which receipt everything is counted.
    pub(super) last_updated_at: Option<DateTime<Utc>>,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn question(days: i64, bucket: &str, now_s: i64) -> Question {
        let query = TimeseriesQuery {
            days: Some(Whole(days)),
            bucket: Some(bucket.to_owned()),
            ..TimeseriesQuery::default()
        };
        Question::new(
            query,
            &DefaultChannel::default(),
            DateTime::from_timestamp(now_s, 5).expect("a time"),
        )
    }

    fn nothing(question: &Question) -> Vec<Point> {
        question.points(&Data::default())
    }

    proptest! {
        #[test]
        fn there_is_a_point_for_each_day(days in -3_i64..200, now_s in 1_700_000_000_i64..1_900_000_000) {
            let question = question(days, "day", now_s);
            let points = nothing(&question);
            prop_assert_eq!(points.len() as i64, days.clamp(1, 90));
            let today = DateTime::from_timestamp(now_s, 0).expect("a time").date_naive();
            prop_assert_eq!(points.last().map(|point| point.date), Some(today));
            prop_assert!(points.windows(2).all(|pair| pair[0].date.succ_opt() == Some(pair[1].date)));
        }

        #[test]
        fn hours_end_with_the_running_one(days in 1_i64..90, now_s in 1_700_000_000_i64..1_900_000_000) {
            let points = nothing(&question(days, "hour", now_s));
            let hours_of_today = now_s.rem_euclid(86_400) / 3_600 + 1;
            prop_assert_eq!(points.len() as i64, 24 * (days.min(7) - 1) + hours_of_today);
            let last = points.last().expect("a point").bucket_time.timestamp();
            prop_assert!(last <= now_s && now_s < last + 3_600);
        }

        #[test]
        fn every_bucket_of_the_store_is_in_its_point(launches in proptest::collection::vec(0_u64..9, 14)) {
            let question = question(14, "day", 1_800_000_000);
            let start = question.window.from.timestamp();
            let mut events = Events::new();
            for (n, launches) in (0..).zip(&launches) {
                let sums = Sums { launches: *launches, ..Sums::default() };
                events.insert(start + n * 86_400, (sums, 1));
            }
            let data = Data { events: Arc::new(events), ..Data::default() };
            let points = question.points(&data);
            let seen: Vec<u64> = points.iter().map(|point| point.launches).collect();
            prop_assert_eq!(seen, launches);
        }
    }

    #[test]
    fn an_unknown_bucket_is_a_day_and_days_by_hour_are_few() {
        assert_eq!(question(3, "week", 1_800_000_000).bucket, Bucket::Day);
        let query = TimeseriesQuery::default();
        let now = DateTime::from_timestamp(1_800_000_000, 0).expect("a time");
        assert_eq!(
            nothing(&Question::new(query, &DefaultChannel::default(), now)).len(),
            14
        );
        assert!(question(3, "day", 1_800_000_000).unfiltered().is_none());
    }
}
