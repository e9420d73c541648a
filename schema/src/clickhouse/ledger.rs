//! Which versions of the folded tables answer a read: a pure reading of the
//! ledger, the table `folds`.
//!
//! Every attempt to fold an hour or a day writes its rows under a version of
//! its own, and one row of the ledger commits it. What always holds for the
//! versions that a [`Ledger`] names:
//!
//! - each hour is counted at most once, by its newest committed fold, or by the
//!   newest fold of it as an open hour (`now`) while it has no other;
//! - a day is its own newest fold plus those of its hours which that fold does
//!   not contain, so nothing is missing between the fold of an hour and that of
//!   its day;
//! - what is named stays readable for [`KEPT_FOR_US`] after a newer version is
//!   committed. A reader whose ledger is younger than that never tears.
//!
//! # How a reader uses it
//!
//! Load the rows of [`LEDGER_SQL`] about once a second, and answer from
//! [`Ledger::hours`], [`Ledger::days`] or [`Ledger::live`]. Each list is for
//! the tables that its field says, in a `UNION ALL`; an empty list means that
//! its part can be left out. [`Ledger::newest`] changes with every commit: the
//! last part of a cache's key.
//!
//! `lastUpdatedAt` (telemetry.md §7) is the newest `watermark` of the table
//! `folded_until`, and null while that is empty. Read it **before** the ledger:
//! then everything received up to it is in what the ledger names. It never goes
//! back. The gate, which reads device-hours themselves, is fresher than that.

use std::collections::BTreeMap;
use std::ops::Range;

/// Seconds of an hour.
pub const HOUR_S: u32 = 3_600;
/// Seconds of a day.
pub const DAY_S: u32 = 24 * HOUR_S;
/// How long device-hours are kept, in seconds.
pub const DEVICE_HOURS_KEPT_S: u32 = 8 * DAY_S;
/// How long a superseded version stays readable, in microseconds.
pub const KEPT_FOR_US: u64 = 120_000_000;
/// By how much the clocks of those who write the ledger may differ, in microseconds.
pub const CLOCK_SKEW_US: u64 = 60_000_000;

/// The rows of the ledger from slot `from` (seconds since 1970) on: what of
/// each kind and slot is newest. Columns: kind, slot in seconds, ver, parts.
pub const LEDGER_SQL: &str = "SELECT toString(kind) AS what, toUnixTimestamp(slot) AS at, \
     max(ver) AS newest, argMax(parts, ver) AS of FROM folds \
     WHERE slot >= fromUnixTimestamp({from:UInt32}) GROUP BY kind, slot";

/// What a row of the ledger says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A closed hour is folded into `hourly`, `hourly_maps` and `hourly_flags`.
    Hour,
    /// A day is folded into `daily`, `daily_flags` and `daily_maps`.
    Day,
    /// An open hour is folded into `hourly_now` and `hourly_maps_now`.
    Now,
    /// Rows came into an hour that may be folded already.
    Late,
}

impl Kind {
    /// As the ledger spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Now => "now",
            Self::Late => "late",
        }
    }

    /// The kind that the ledger spells so.
    pub fn parse(text: &str) -> Option<Self> {
        let all = [Self::Hour, Self::Day, Self::Now, Self::Late];
        all.into_iter().find(|kind| kind.as_str() == text)
    }
}

/// A fold that counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fold {
    /// Its version: microseconds since 1970 of its start, or a little before; the
    /// last sixteen bits are random.
    pub ver: u64,
    /// Of a day: its hours (seconds since 1970) and the version of each. Else empty.
    pub parts: Vec<(u32, u64)>,
}

/// The versions for a read by the hour.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HourVersions {
    /// For `hourly`, `hourly_flags` and `hourly_maps`.
    pub hours: Vec<u64>,
    /// For `hourly_now` and `hourly_maps_now`.
    pub now: Vec<u64>,
}

/// The versions for a read by the day.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DayVersions {
    /// For `daily`, `daily_flags` and `daily_maps`.
    pub days: Vec<u64>,
    /// For `hourly`, `hourly_flags` and `hourly_maps`.
    pub hours: Vec<u64>,
    /// For `hourly_now` and `hourly_maps_now`.
    pub now: Vec<u64>,
}

/// What a read takes that must not wait for folds: the gate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LiveHours {
    /// Versions for `hourly`.
    pub hours: Vec<u64>,
    /// Hours, in seconds since 1970, to be read from `device_hours`. Many of
    /// them may have no row.
    pub live: Vec<u32>,
}

/// What the ledger says, by kind and slot.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    hours: BTreeMap<u32, Fold>,
    days: BTreeMap<u32, Fold>,
    now: BTreeMap<u32, Fold>,
    late: BTreeMap<u32, u64>,
}

impl Ledger {
    /// Takes in one row; of each kind and slot the newest counts, in any order.
    pub fn add(&mut self, kind: Kind, slot: u32, fold: Fold) {
        let folds = match kind {
            Kind::Hour => &mut self.hours,
            Kind::Day => &mut self.days,
            Kind::Now => &mut self.now,
            Kind::Late => {
                let newest = self.late.entry(slot).or_default();
                *newest = fold.ver.max(*newest);
                return;
            }
        };
        match folds.get(&slot) {
            Some(known) if known.ver >= fold.ver => {}
            _ => drop(folds.insert(slot, fold)),
        }
    }

    /// The versions that hold the hours which begin in `window` (seconds since 1970).
    pub fn hours(&self, window: Range<u32>) -> HourVersions {
        let folded = self.hours.range(window.clone());
        HourVersions {
            hours: folded.map(|(_, fold)| fold.ver).collect(),
            now: self.open(window).collect(),
        }
    }

    /// The versions that hold the days which begin in `window` (seconds since 1970).
    pub fn days(&self, window: Range<u32>) -> DayVersions {
        let starts = window.start.next_multiple_of(DAY_S)..window.end.next_multiple_of(DAY_S);
        let mut versions = DayVersions::default();
        for start in starts.step_by(DAY_S as usize) {
            let day = self.days.get(&start);
            versions.days.extend(day.map(|day| day.ver));
            let contained = |hour: &u32| day.is_some_and(|day| day.has_part(*hour));
            let folded = self.hours.range(start..start + DAY_S);
            let apart = folded.filter(|(hour, _)| !contained(hour));
            versions.hours.extend(apart.map(|(_, fold)| fold.ver));
            versions.now.extend(self.open(start..start + DAY_S));
        }
        versions
    }

    /// What to read of the hours that begin in `window` (seconds since 1970) to
    /// see all that is inserted, be it folded or not. Hours that are no longer
    /// in `device_hours` at `now_s` are answered by folds alone.
    pub fn live(&self, window: Range<u32>, now_s: u32) -> LiveHours {
        let start = window.start.next_multiple_of(HOUR_S);
        let mut read = LiveHours::default();
        for hour in (start..window.end).step_by(HOUR_S as usize) {
            let kept = hour + DEVICE_HOURS_KEPT_S > now_s + HOUR_S;
            match self.hours.get(&hour) {
                Some(fold) if !kept || !self.is_stale(hour) => read.hours.push(fold.ver),
                _ if kept => read.live.push(hour),
                _ => {}
            }
        }
        read
    }

    /// The newest version of all: it changes with every commit.
    pub fn newest(&self) -> u64 {
        let folds = [&self.hours, &self.days, &self.now].map(BTreeMap::values);
        folds
            .into_iter()
            .flatten()
            .map(|fold| fold.ver)
            .max()
            .unwrap_or_default()
    }

    /// The newest fold of a closed hour.
    pub fn hour(&self, hour: u32) -> Option<&Fold> {
        self.hours.get(&hour)
    }

    /// The newest fold of a day.
    pub fn day(&self, start: u32) -> Option<&Fold> {
        self.days.get(&start)
    }

    /// The newest fold of an hour as an open one, whatever came after it.
    pub fn now(&self, hour: u32) -> Option<&Fold> {
        self.now.get(&hour)
    }

    /// When rows last came late into an hour, in microseconds since 1970.
    pub fn late_us(&self, hour: u32) -> Option<u64> {
        self.late.get(&hour).copied()
    }

    /// Whether rows may have come into a folded hour since its fold began.
    pub fn is_stale(&self, hour: u32) -> bool {
        match (self.hours.get(&hour), self.late.get(&hour)) {
            (Some(fold), Some(late)) => late + CLOCK_SKEW_US > fold.ver,
            _ => false,
        }
    }

    /// The newest folds of the hours of a day that begins at `start`.
    pub fn hours_of(&self, start: u32) -> impl Iterator<Item = (u32, u64)> {
        let hours = self.hours.range(start..start + DAY_S);
        hours.map(|(hour, fold)| (*hour, fold.ver))
    }

    fn open(&self, window: Range<u32>) -> impl Iterator<Item = u64> {
        let open = self.now.range(window);
        open.filter(|(hour, _)| !self.hours.contains_key(hour))
            .map(|(_, fold)| fold.ver)
    }
}

impl Fold {
    fn has_part(&self, hour: u32) -> bool {
        self.parts.iter().any(|(part, _)| *part == hour)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const DAY: u32 = 20_000 * DAY_S;

    fn fold(ver: u64) -> Fold {
        Fold { ver, parts: vec![] }
    }

    fn hour(n: u32) -> u32 {
        DAY + n * HOUR_S
    }

    #[test]
    fn an_hour_is_read_open_until_it_is_folded() {
        let mut ledger = Ledger::default();
        ledger.add(Kind::Now, hour(1), fold(5));
        ledger.add(Kind::Now, hour(1), fold(4));
        let window = hour(0)..hour(2);
        assert_eq!(ledger.hours(window.clone()).now, [5]);
        ledger.add(Kind::Hour, hour(1), fold(6));
        ledger.add(Kind::Now, hour(1), fold(7));
        let read = ledger.hours(window);
        assert_eq!((read.hours, read.now), (vec![6], vec![]));
        assert_eq!(ledger.newest(), 7);
    }

    #[test]
    fn a_day_is_completed_by_the_hours_that_it_does_not_contain() {
        let mut ledger = Ledger::default();
        ledger.add(Kind::Hour, hour(1), fold(1));
        ledger.add(Kind::Hour, hour(2), fold(2));
        let parts = vec![(hour(1), 1)];
        ledger.add(Kind::Day, DAY, Fold { ver: 3, parts });
        ledger.add(Kind::Now, hour(3), fold(4));
        let read = ledger.days(DAY..DAY + 1);
        assert_eq!(
            (read.days, read.hours, read.now),
            (vec![3], vec![2], vec![4])
        );
        // A newer fold of an hour that the day has as an older one waits for the day.
        ledger.add(Kind::Hour, hour(1), fold(9));
        assert_eq!(ledger.days(DAY..DAY + 1).hours, [2]);
    }

    #[test]
    fn the_gate_reads_what_is_not_folded_or_no_longer_whole() {
        let mut ledger = Ledger::default();
        let us = |n: u32| u64::from(hour(n)) * 1_000_000;
        for n in 0..3 {
            ledger.add(Kind::Hour, hour(n), fold(us(n + 1) + CLOCK_SKEW_US));
        }
        ledger.add(Kind::Late, hour(0), fold(us(1)));
        ledger.add(Kind::Late, hour(1), fold(us(2) + 1));
        let read = ledger.live(hour(0) - 10..hour(3) + 1, hour(4));
        let whole = [us(1) + CLOCK_SKEW_US, us(3) + CLOCK_SKEW_US];
        assert_eq!(read.hours, whole);
        assert_eq!(read.live, [hour(1), hour(3)]);
        let later = ledger.live(hour(0)..hour(4), hour(3) + DEVICE_HOURS_KEPT_S);
        assert_eq!((later.hours.len(), later.live.len()), (3, 0));
    }

    #[test]
    fn kinds_are_read_as_they_are_written() {
        for kind in [Kind::Hour, Kind::Day, Kind::Now, Kind::Late] {
            assert_eq!(Kind::parse(kind.as_str()), Some(kind));
        }
        assert_eq!(Kind::parse("week"), None);
    }

    /// A day is a sum of hours however it is put together.
    fn hours_counted(ledger: &Ledger, read: &DayVersions) -> Vec<u32> {
        let mut counted = Vec::new();
        for (start, day) in &ledger.days {
            if read.days.contains(&day.ver) {
                counted.extend(day.parts.iter().map(|(hour, _)| *hour));
                assert_eq!(*start, DAY);
            }
        }
        let of = |folds: &BTreeMap<u32, Fold>, vers: &[u64]| -> Vec<u32> {
            let named = folds.iter().filter(|(_, fold)| vers.contains(&fold.ver));
            named.map(|(hour, _)| *hour).collect()
        };
        counted.extend(of(&ledger.hours, &read.hours));
        counted.extend(of(&ledger.now, &read.now));
        counted.sort_unstable();
        counted
    }

    proptest! {
        #[test]
        fn each_hour_with_a_fold_is_in_its_day_once(
            folds in proptest::collection::vec((0_u8..3, 0_u32..6), 0..40),
        ) {
            let mut ledger = Ledger::default();
            let mut known = BTreeSet::new();
            for (ver, (kind, n)) in (1..).zip(folds) {
                match kind {
                    0 => ledger.add(Kind::Hour, hour(n), fold(ver)),
                    1 => ledger.add(Kind::Now, hour(n), fold(ver)),
                    _ => {
                        let parts = ledger.hours_of(DAY).collect();
                        ledger.add(Kind::Day, DAY, Fold { ver, parts });
                        continue;
                    }
                }
                known.insert(hour(n));
            }
            let counted = hours_counted(&ledger, &ledger.days(DAY..DAY + DAY_S));
            prop_assert_eq!(counted, known.into_iter().collect::<Vec<_>>());
        }
    }
}
