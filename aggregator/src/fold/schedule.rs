//! What the folder does next: a pure decision over what a look at the store
//! found, what was done before, and a clock.
//!
//! What always holds: an hour is folded for good only once every partition's
//! watermark is a margin past its end; an open hour is folded only when rows
//! came since, and rounds of that begin at least the pace apart; an hour that
//! got rows late is folded again, and its day after it; nothing is folded from
//! device-hours that may be expiring; what is said to be folded (`Publish`) is.

use std::collections::{BTreeMap, HashMap};

use sluice_schema::clickhouse::ledger::{
    CLOCK_SKEW_US, DAY_S, DEVICE_HOURS_KEPT_S, HOUR_S, KEPT_FOR_US, Ledger,
};

const SECOND_US: u64 = 1_000_000;
/// How far every watermark is past the end of an hour that is closed. Above the
/// skew of clocks, so that the last batch of an hour does not make it late.
const MARGIN_US: u64 = CLOCK_SKEW_US;
/// Folds of open hours take at most this share of the time: one part in so many.
const SHARE: u64 = 20;
const SHORTEST_PACE_US: u64 = SECOND_US;
/// Device-hours this close to their expiry are left alone.
const EXPIRY_MARGIN_S: u32 = HOUR_S;
/// How often `lastUpdatedAt` moves at most.
const PUBLISH_EVERY_US: u64 = SECOND_US;
const DROP_EVERY_US: u64 = KEPT_FOR_US / 2;
const SWEEP_EVERY_US: u64 = 3_600 * SECOND_US;
/// How often the store is looked at while nothing is known to have changed.
const LOOK_EVERY_US: u64 = SECOND_US;
const FIRST_RETRY_US: u64 = SECOND_US;
const LONGEST_RETRY_US: u64 = 60 * SECOND_US;

/// What a look at the store found. The watermarks are read before the inserts.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// When it was looked at, in microseconds since 1970.
    pub at_us: u64,
    /// Up to which receipt all partitions are in device-hours, in microseconds
    /// since 1970. None while one of them has said nothing.
    pub watermark_us: Option<u64>,
    /// Of each hour (seconds since 1970) that has device-hours, a number that
    /// changes with every insert.
    pub inserts: BTreeMap<u32, u64>,
    /// What is folded.
    pub ledger: Ledger,
}

/// What can be due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Fold these open hours, each with the number of its inserts.
    FoldOpen(Vec<(u32, u64)>),
    /// Fold an hour for good.
    FoldHour(u32),
    /// Fold a day from these versions of its hours.
    FoldDay {
        /// Its first second since 1970.
        day: u32,
        /// Hours and their versions.
        parts: Vec<(u32, u64)>,
    },
    /// Say that everything received up to here is folded, in microseconds since 1970.
    Publish(u64),
    /// Drop superseded versions of open hours.
    DropOpen,
    /// Delete superseded and dead versions of everything else.
    Sweep,
    /// Look again later.
    Wait {
        /// When, in microseconds since 1970.
        until_us: u64,
        /// Already when rows are inserted.
        for_rows: bool,
    },
}

/// An action, without what may change between two attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Task {
    Open,
    Hour(u32),
    Day(u32),
    Publish,
    Drop,
    Sweep,
}

#[derive(Clone, Copy, Debug)]
struct Failed {
    times: u32,
    retry_us: u64,
}

/// What is to be folded before `watermark_us` can be published.
#[derive(Debug)]
struct Target {
    watermark_us: u64,
    inserts: BTreeMap<u32, u64>,
}

/// The folder's memory.
#[derive(Debug, Default)]
pub struct Scheduler {
    /// Inserts of open hours that their newest fold contains.
    open: BTreeMap<u32, u64>,
    open_from_us: u64,
    /// How long the last round of open hours took.
    took_us: Option<u64>,
    target: Option<Target>,
    published_us: u64,
    published_at_us: u64,
    dropped_at_us: u64,
    swept_at_us: u64,
    failed: HashMap<Task, Failed>,
}

impl Scheduler {
    /// What to do now.
    pub fn next(&mut self, view: &View) -> Action {
        self.open
            .retain(|hour, _| view.ledger.hour(*hour).is_none());
        self.aim(view);
        self.publish(view)
            .or_else(|| self.fold_open(view))
            .or_else(|| self.fold_hour(view))
            .or_else(|| self.fold_day(view))
            .or_else(|| self.clean(view))
            .unwrap_or_else(|| self.wait(view))
    }

    /// The action is done, begun at `from_us` and ended at `to_us`.
    pub fn done(&mut self, action: &Action, from_us: u64, to_us: u64) -> bool {
        match action {
            Action::FoldOpen(hours) => {
                self.open.extend(hours.iter().copied());
                self.pace(from_us, to_us);
            }
            Action::Publish(watermark_us) => {
                self.published_us = *watermark_us;
                self.published_at_us = to_us;
                self.target = None;
            }
            Action::DropOpen => self.dropped_at_us = to_us,
            Action::Sweep => self.swept_at_us = to_us,
            Action::FoldHour(_) | Action::FoldDay { .. } | Action::Wait { .. } => {}
        }
        let task = task(action);
        task.is_some_and(|task| self.failed.remove(&task).is_some())
    }

    /// The action failed; true if it is the first time in a row.
    pub fn failed(&mut self, action: &Action, from_us: u64, to_us: u64) -> bool {
        if matches!(action, Action::FoldOpen(_)) {
            self.pace(from_us, to_us);
        }
        let Some(task) = task(action) else {
            return false;
        };
        let known = self.failed.entry(task).or_insert(Failed {
            times: 0,
            retry_us: 0,
        });
        let pause = FIRST_RETRY_US << known.times.min(6);
        known.times += 1;
        known.retry_us = to_us + pause.min(LONGEST_RETRY_US);
        known.times == 1
    }

    fn pace(&mut self, from_us: u64, to_us: u64) {
        let took_us = to_us.saturating_sub(from_us);
        // One slow round among quick ones is somebody else's load, not ours.
        let usual_us = self
            .took_us
            .replace(took_us)
            .unwrap_or(took_us)
            .min(took_us);
        self.open_from_us = from_us + SHORTEST_PACE_US.max(SHARE * usual_us);
    }

    fn may(&self, task: Task, view: &View) -> bool {
        let failed = self.failed.get(&task);
        failed.is_none_or(|failed| failed.retry_us <= view.at_us)
    }

    /// Sets the next watermark to be published, and what must be folded for it.
    fn aim(&mut self, view: &View) {
        if let (None, Some(watermark_us)) = (&self.target, view.watermark_us)
            && watermark_us > self.published_us
        {
            let inserts = view.inserts.clone();
            self.target = Some(Target {
                watermark_us,
                inserts,
            });
        }
    }

    fn publish(&self, view: &View) -> Option<Action> {
        let target = self.target.as_ref()?;
        let due = view.at_us >= self.published_at_us + PUBLISH_EVERY_US;
        let mut hours = target.inserts.iter();
        let folded = |(hour, inserts): (&u32, &u64)| {
            is_complete(view, *hour)
                || self.open.get(hour).is_some_and(|known| known >= inserts)
                || is_expiring(*hour, view)
        };
        let ready = due && hours.all(folded) && self.may(Task::Publish, view);
        ready.then_some(Action::Publish(target.watermark_us))
    }

    fn fold_open(&self, view: &View) -> Option<Action> {
        let hours = self.open_hours(view);
        let due = view.at_us >= self.open_from_us && self.may(Task::Open, view);
        (due && !hours.is_empty()).then_some(Action::FoldOpen(hours))
    }

    /// Hours that cannot be closed yet and have rows that no fold contains.
    fn open_hours(&self, view: &View) -> Vec<(u32, u64)> {
        let changed = view.inserts.iter().filter(|(hour, inserts)| {
            view.ledger.hour(**hour).is_none()
                && !is_closed(**hour, view)
                && !is_expiring(**hour, view)
                && self.open.get(hour) != Some(inserts)
        });
        changed.map(|(hour, inserts)| (*hour, *inserts)).collect()
    }

    /// The newest hour that is due: what people look at first.
    fn fold_hour(&self, view: &View) -> Option<Action> {
        let mut hours = view.inserts.keys().rev();
        let due = |hour: &&u32| is_due(**hour, view) && self.may(Task::Hour(**hour), view);
        hours.find(due).map(|hour| Action::FoldHour(*hour))
    }

    fn fold_day(&self, view: &View) -> Option<Action> {
        let mut days: Vec<u32> = view.inserts.keys().map(|hour| day_of(*hour)).collect();
        days.dedup();
        let due = days.into_iter().rev().find(|day| {
            !is_expiring(*day, view) && self.may(Task::Day(*day), view) && !has_all(view, *day)
        });
        due.map(|day| Action::FoldDay {
            day,
            parts: view.ledger.hours_of(day).collect(),
        })
    }

    fn clean(&self, view: &View) -> Option<Action> {
        let due =
            |task, last_us: u64, every_us| view.at_us >= last_us + every_us && self.may(task, view);
        if due(Task::Drop, self.dropped_at_us, DROP_EVERY_US) {
            Some(Action::DropOpen)
        } else if due(Task::Sweep, self.swept_at_us, SWEEP_EVERY_US) {
            Some(Action::Sweep)
        } else {
            None
        }
    }

    /// While rows wait for the pace, more of them change nothing.
    fn wait(&self, view: &View) -> Action {
        let look_us = view.at_us + LOOK_EVERY_US;
        let for_rows = view.at_us >= self.open_from_us;
        let until_us = if for_rows {
            look_us
        } else {
            look_us.min(self.open_from_us)
        };
        Action::Wait { until_us, for_rows }
    }
}

fn task(action: &Action) -> Option<Task> {
    Some(match action {
        Action::FoldOpen(_) => Task::Open,
        Action::FoldHour(hour) => Task::Hour(*hour),
        Action::FoldDay { day, .. } => Task::Day(*day),
        Action::Publish(_) => Task::Publish,
        Action::DropOpen => Task::Drop,
        Action::Sweep => Task::Sweep,
        Action::Wait { .. } => return None,
    })
}

/// The day, in seconds since 1970, of an hour.
pub fn day_of(hour: u32) -> u32 {
    hour - hour % DAY_S
}

/// Whether the device-hours of a slot may go while they are read.
fn is_expiring(slot: u32, view: &View) -> bool {
    let now_s = view.at_us / SECOND_US;
    u64::from(slot + DEVICE_HOURS_KEPT_S - EXPIRY_MARGIN_S) <= now_s
}

/// Whether all rows of an hour are there, as far as one can know.
fn is_closed(hour: u32, view: &View) -> bool {
    let end_us = u64::from(hour + HOUR_S) * SECOND_US;
    let passed = |watermark_us| watermark_us >= end_us + MARGIN_US;
    let settled = |late_us| late_us + CLOCK_SKEW_US <= view.at_us;
    view.watermark_us.is_some_and(passed) && view.ledger.late_us(hour).is_none_or(settled)
}

/// Whether an hour is to be folded for good, or again. Again at once when the
/// last time is a while ago, and once more when no clock can mistake the order.
fn is_due(hour: u32, view: &View) -> bool {
    if is_expiring(hour, view) {
        return false;
    }
    let Some(fold) = view.ledger.hour(hour) else {
        return is_closed(hour, view);
    };
    let late_us = view.ledger.late_us(hour).unwrap_or_default();
    view.ledger.is_stale(hour) && view.at_us >= late_us.min(fold.ver) + CLOCK_SKEW_US
}

/// Whether an hour and its day are folded with all that is known of it.
fn is_complete(view: &View, hour: u32) -> bool {
    let Some(fold) = view.ledger.hour(hour) else {
        return false;
    };
    let late_us = view.ledger.late_us(hour).unwrap_or_default();
    let day = view.ledger.day(day_of(hour));
    let mut parts = day.into_iter().flat_map(|day| &day.parts);
    let outdated = parts.any(|(part, ver)| *part == hour && *ver != fold.ver);
    late_us < fold.ver && (!outdated || is_expiring(day_of(hour), view))
}

/// Whether the fold of a day has the newest folds of all its hours.
fn has_all(view: &View, day: u32) -> bool {
    let mut hours = view.ledger.hours_of(day).peekable();
    let parts = view.ledger.day(day).map(|fold| fold.parts.as_slice());
    match parts {
        None => hours.peek().is_none(),
        Some(parts) => hours.all(|part| parts.contains(&part)),
    }
}

#[cfg(test)]
mod tests;
