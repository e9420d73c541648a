//! Where events lie, and how far back a page has to look.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, DurationRound, TimeDelta, Utc};

/// How far back a page looks at first, and then, if it is not full: the newest
/// page of a busy project opens one partition of the table, not thirty.
const SPANS: [TimeDelta; 2] = [TimeDelta::days(1), TimeDelta::days(7)];

/// Where an event lies, in the order of lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(in crate::insights) struct Position {
    /// Microseconds since 1970.
    pub(super) received_us: i64,
    pub(super) partition: u16,
    pub(super) offset: u64,
    pub(super) index: u16,
}

impl Position {
    /// The place in the log as a number below 2^53: partition (6 bits), offset
    /// modulo 2^32, index (15 bits).
    pub(in crate::insights) fn id(&self) -> u64 {
        let partition = u64::from(self.partition & 0x3f) << 47;
        let offset = (self.offset & 0xffff_ffff) << 15;
        partition | offset | u64::from(self.index & 0x7fff)
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (at, partition) = (self.received_us, self.partition);
        write!(f, "{at}.{partition}.{}.{}", self.offset, self.index)
    }
}

impl FromStr for Position {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        fn next<T: FromStr>(part: Option<&str>) -> Result<T, ()> {
            part.and_then(|part| part.parse().ok()).ok_or(())
        }
        let mut parts = text.split('.');
        let position = Self {
            received_us: next(parts.next())?,
            partition: next(parts.next())?,
            offset: next(parts.next())?,
            index: next(parts.next())?,
        };
        parts.next().is_none().then_some(position).ok_or(())
    }
}

/// From when on to look for a page that begins at `newest`, one after the
/// other until it is full; never before `oldest`.
pub(super) fn lower_bounds(
    newest: DateTime<Utc>,
    oldest: DateTime<Utc>,
) -> impl Iterator<Item = DateTime<Utc>> {
    let narrow = SPANS.into_iter().map(move |span| newest - span);
    narrow
        .filter(move |from| *from > oldest)
        .chain(std::iter::once(oldest))
}

/// Ranges of receipt that make up one.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Split {
    /// Whole hours, as (first instant, first instant after it).
    pub(super) hours: Option<(DateTime<Utc>, Option<DateTime<Utc>>)>,
    /// What is left at both ends, as (first, last).
    pub(super) rest: Vec<(DateTime<Utc>, DateTime<Utc>)>,
}

/// Splits what was received from `from` up to and with `to` into whole hours
/// and the rest, so that totals come from counts by the hour.
pub(super) fn split(from: DateTime<Utc>, to: Option<DateTime<Utc>>) -> Split {
    let step = TimeDelta::microseconds(1);
    let first = floor(from - step) + TimeDelta::hours(1);
    // The hour of the instant after `to` is the first that is not whole.
    let end = to.map(|to| floor(to + step));
    if end.is_some_and(|end| end <= first) {
        return Split {
            hours: None,
            rest: to.map(|to| (from, to)).into_iter().collect(),
        };
    }
    let mut rest = Vec::new();
    if from < first {
        rest.push((from, first - step));
    }
    if let (Some(to), Some(end)) = (to, end)
        && end <= to
    {
        rest.push((end, to));
    }
    Split {
        hours: Some((first, end)),
        rest,
    }
}

fn floor(at: DateTime<Utc>) -> DateTime<Utc> {
    at.duration_trunc(TimeDelta::hours(1)).unwrap_or(at)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(us: i64) -> DateTime<Utc> {
        DateTime::from_timestamp_micros(us).expect("a time")
    }

    fn position() -> impl Strategy<Value = Position> {
        (0..1_i64 << 52, 0..64_u16, 0..1_u64 << 32, 0..1_u16 << 15).prop_map(
            |(received_us, partition, offset, index)| Position {
                received_us,
                partition,
                offset,
                index,
            },
        )
    }

    proptest! {
        #[test]
        fn ids_are_small_distinct_and_in_the_order_of_the_log(a in position(), b in position()) {
            prop_assert!(a.id() < 1 << 53);
            let place = |p: &Position| (p.partition, p.offset, p.index);
            prop_assert_eq!(place(&a).cmp(&place(&b)), a.id().cmp(&b.id()));
        }

        #[test]
        fn a_cursor_names_its_position(position in position(), text in ".*") {
            prop_assert_eq!(position.to_string().parse(), Ok(position));
            if let Ok(parsed) = text.parse::<Position>() {
                prop_assert_eq!(parsed.to_string().parse(), Ok(parsed));
            }
        }

        #[test]
        fn a_split_has_each_moment_once(
            from_us in 0_i64..40_000_000_000,
            length_us in prop_oneof![0_i64..40_000_000_000, (0_i64..11).prop_map(|h| h * 3_600_000_000 - 1)],
            probes in proptest::collection::vec(-5_000_000_000_i64..90_000_000_000, 20),
        ) {
            let (from, to) = (at(from_us), at(from_us + length_us.max(0)));
            let parts = split(from, Some(to));
            if let Some((first, end)) = parts.hours {
                prop_assert!(floor(first) == first && end.is_some_and(|end| floor(end) == end && first < end));
            }
            let edges = [from, to].into_iter().chain(probes.into_iter().map(at));
            for probe in edges {
                let in_hours = parts.hours.is_some_and(|(first, end)| {
                    first <= probe && end.is_none_or(|end| probe < end)
                });
                let in_rest = parts.rest.iter().filter(|(first, last)| (*first..=*last).contains(&probe));
                let times = in_rest.count() + usize::from(in_hours);
                prop_assert_eq!(times, usize::from((from..=to).contains(&probe)), "{}", probe);
            }
        }

        #[test]
        fn pages_look_further_back_each_time(newest_us in 0_i64..1 << 50, span_us in 0_i64..3_000_000_000_000) {
            let (newest, oldest) = (at(newest_us), at(newest_us) - TimeDelta::microseconds(span_us));
            let bounds: Vec<_> = lower_bounds(newest, oldest).collect();
            prop_assert!(bounds.is_sorted_by(|a, b| a > b));
            prop_assert_eq!(bounds.last(), Some(&oldest));
        }
    }

    #[test]
    fn an_open_end_is_whole_hours() {
        let from = at(3_600_000_000);
        let whole = Split {
            hours: Some((from, None)),
            rest: vec![],
        };
        assert_eq!(split(from, None), whole);
    }
}
