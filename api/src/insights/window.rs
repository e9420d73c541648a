//! Spans of time, cut on UTC boundaries whatever the host's zone
//! (telemetry.md §0 and §4.1).

use chrono::{DateTime, Days, DurationRound, NaiveDate, TimeDelta, Utc};

/// From an instant on, and before another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Window {
    /// The first instant.
    pub(super) from: DateTime<Utc>,
    /// The first instant after it.
    pub(super) to: DateTime<Utc>,
}

impl Window {
    /// The trailing hours: the running one, and so many before it.
    pub(super) fn trailing_hours(now: DateTime<Utc>, hours: i64) -> Self {
        let running = start_of_hour(now);
        Self {
            from: running - TimeDelta::hours(hours),
            to: running + TimeDelta::hours(1),
        }
    }

    /// So many hours, of which the last is running.
    pub(super) fn hours(now: DateTime<Utc>, hours: i64) -> Self {
        Self::trailing_hours(now, hours - 1)
    }

    /// So many UTC dates, of which the last is today.
    pub(super) fn days(now: DateTime<Utc>, days: i64) -> Self {
        let today = start_of_day(now.date_naive());
        Self {
            from: today - TimeDelta::days(days - 1),
            to: today + TimeDelta::days(1),
        }
    }

    /// The window of the same length just before.
    pub(super) fn preceding(self, length: TimeDelta) -> Self {
        Self {
            from: self.from - length,
            to: self.from,
        }
    }
}

/// The hour that an instant lies in.
pub(super) fn start_of_hour(at: DateTime<Utc>) -> DateTime<Utc> {
    at.duration_trunc(TimeDelta::hours(1)).unwrap_or(at)
}

/// The first instant of a date.
pub(super) fn start_of_day(date: NaiveDate) -> DateTime<Utc> {
    date.and_time(chrono::NaiveTime::MIN).and_utc()
}

/// The last instant of a date.
pub(super) fn end_of_day(date: NaiveDate) -> DateTime<Utc> {
    let next = date.checked_add_days(Days::new(1)).unwrap_or(date);
    start_of_day(next) - TimeDelta::microseconds(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().expect("an instant")
    }

    #[test]
    fn windows_are_cut_on_utc_boundaries() {
        let now = at("2026-03-01T00:15:02.123456Z");
        let trailing = Window::trailing_hours(now, 24);
        assert_eq!(trailing.from, at("2026-02-28T00:00:00Z"));
        assert_eq!(trailing.to, at("2026-03-01T01:00:00Z"));
        assert_eq!(Window::hours(now, 24).from, at("2026-02-28T01:00:00Z"));
        let days = Window::days(now, 14);
        assert_eq!(days.from, at("2026-02-16T00:00:00Z"));
        assert_eq!(days.to, at("2026-03-02T00:00:00Z"));
        let before = days.preceding(TimeDelta::days(14));
        assert_eq!(
            (before.from, before.to),
            (at("2026-02-02T00:00:00Z"), days.from)
        );
        assert_eq!(
            end_of_day(now.date_naive()),
            at("2026-03-01T23:59:59.999999Z")
        );
    }
}
