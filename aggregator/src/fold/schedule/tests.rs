use proptest::prelude::*;
use sluice_schema::clickhouse::ledger::{Fold, Kind};

use super::*;

const START_S: u32 = 20_000 * DAY_S;
const HOUR_US: u64 = HOUR_S as u64 * SECOND_US;

fn fold(ver: u64, parts: Vec<(u32, u64)>) -> Fold {
    Fold { ver, parts }
}

/// A store and its clock, as far as the scheduler can tell.
struct World {
    view: View,
    /// Inserts that the newest fold of each hour contains.
    hours: BTreeMap<u32, u64>,
    open: BTreeMap<u32, u64>,
    days: BTreeMap<u32, BTreeMap<u32, u64>>,
    published_us: u64,
    /// Start and length of the last round of open hours.
    round: (u64, u64),
    took_us: Option<u64>,
    scheduler: Scheduler,
}

impl World {
    fn new() -> Self {
        let view = View {
            at_us: u64::from(START_S) * SECOND_US,
            ..View::default()
        };
        Self {
            view,
            hours: BTreeMap::new(),
            open: BTreeMap::new(),
            days: BTreeMap::new(),
            published_us: 0,
            round: (0, 0),
            took_us: None,
            scheduler: Scheduler::default(),
        }
    }

    fn now_hour(&self) -> u32 {
        let now_s = (self.view.at_us / SECOND_US) as u32;
        now_s - now_s % HOUR_S
    }

    /// Rows of an hour are inserted, and marked late as the writer does.
    fn insert(&mut self, hours_ago: u32) {
        let hour = self.now_hour() - hours_ago * HOUR_S;
        *self.view.inserts.entry(hour).or_default() += 1;
        if hours_ago > 0 {
            let late = fold(self.view.at_us, vec![]);
            self.view.ledger.add(Kind::Late, hour, late);
        }
        self.view.at_us += 1;
    }

    fn settle(&mut self) {
        self.view.watermark_us = Some(self.view.at_us);
    }

    /// Takes one step; what fails changes nothing but the memory.
    fn step(&mut self, took_us: u64, fails: bool) -> Action {
        let (view, from_us) = (self.view.clone(), self.view.at_us);
        let action = self.scheduler.next(&view);
        self.check(&action);
        self.view.at_us += took_us;
        if fails {
            self.scheduler.failed(&action, from_us, self.view.at_us);
        } else {
            self.apply(&action, from_us);
            self.scheduler.done(&action, from_us, self.view.at_us);
        }
        if let Action::FoldOpen(_) = action {
            let usual_us = self
                .took_us
                .replace(took_us)
                .unwrap_or(took_us)
                .min(took_us);
            self.round = (from_us, usual_us);
        }
        action
    }

    fn apply(&mut self, action: &Action, ver: u64) {
        let of = |hour: &u32, view: &View| view.inserts[hour];
        match action {
            Action::FoldOpen(hours) => {
                for (hour, _) in hours {
                    self.open.insert(*hour, of(hour, &self.view));
                    self.view.ledger.add(Kind::Now, *hour, fold(ver, vec![]));
                }
            }
            Action::FoldHour(hour) => {
                self.hours.insert(*hour, of(hour, &self.view));
                self.view.ledger.add(Kind::Hour, *hour, fold(ver, vec![]));
            }
            Action::FoldDay { day, parts } => {
                let contains = parts.iter().map(|(hour, _)| (*hour, self.hours[hour]));
                self.days.insert(*day, contains.collect());
                let parts = parts.clone();
                self.view.ledger.add(Kind::Day, *day, fold(ver, parts));
            }
            Action::Publish(us) => self.published_us = *us,
            Action::Wait { until_us, .. } => self.view.at_us = self.view.at_us.max(*until_us),
            Action::DropOpen | Action::Sweep => {}
        }
    }

    fn check(&self, action: &Action) {
        match action {
            Action::FoldOpen(hours) => {
                let (from_us, usual_us) = self.round;
                let pace_us = SHORTEST_PACE_US.max(SHARE * usual_us);
                assert!(self.view.at_us >= from_us + pace_us, "too soon");
                for (hour, inserts) in hours {
                    assert_ne!(self.open.get(hour), Some(inserts), "nothing new");
                }
            }
            Action::FoldHour(hour) => {
                let end_us = u64::from(hour + HOUR_S) * SECOND_US;
                let watermark_us = self.view.watermark_us.unwrap_or_default();
                assert!(watermark_us >= end_us + MARGIN_US, "closed too early");
                let expires_s = u64::from(hour + DEVICE_HOURS_KEPT_S);
                assert!(self.view.at_us < expires_s * SECOND_US, "expiring");
            }
            Action::Publish(us) => assert!(*us > self.published_us, "went back"),
            _ => {}
        }
    }

    /// What a reader of days sees of an hour.
    fn visible(&self, hour: u32) -> u64 {
        let day = self.days.get(&day_of(hour));
        let in_day = day.and_then(|day| day.get(&hour));
        let seen = in_day
            .or_else(|| self.hours.get(&hour))
            .or_else(|| self.open.get(&hour));
        seen.copied().unwrap_or_default()
    }

    fn all_visible(&self) -> bool {
        let mut hours = self.view.inserts.iter();
        let kept = |hour| !is_expiring(day_of(hour), &self.view);
        hours.all(|(hour, inserts)| self.visible(*hour) == *inserts || !kept(*hour))
    }
}

#[derive(Clone, Debug)]
enum Event {
    Insert(u32),
    Settle,
    Pass(u64),
    Step { took_us: u64, fails: bool },
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        3 => prop_oneof![4 => Just(0), 2 => 1_u32..4, 1 => 4_u32..180].prop_map(Event::Insert),
        3 => Just(Event::Settle),
        3 => prop_oneof![0..3 * SECOND_US, 0..2 * HOUR_US].prop_map(Event::Pass),
        9 => (0..2 * SECOND_US, prop::bool::weighted(0.2))
            .prop_map(|(took_us, fails)| Event::Step { took_us, fails }),
    ];
    prop::collection::vec(event, 1..120)
}

proptest! {
    #[test]
    fn in_the_end_all_is_folded_once_and_what_is_published_is_true(events in events()) {
        let mut world = World::new();
        for event in events {
            match event {
                Event::Insert(hours_ago) => world.insert(hours_ago),
                Event::Settle => world.settle(),
                Event::Pass(us) => world.view.at_us += us,
                Event::Step { took_us, fails } => drop(world.step(took_us, fails)),
            }
        }
        let mut published_with_all = false;
        for _ in 0..3_000 {
            if world.all_visible() {
                let settled_us = world.view.watermark_us;
                published_with_all |= settled_us == Some(world.published_us);
            }
            world.settle();
            world.step(1_000, false);
        }
        prop_assert!(world.all_visible(), "{:?}", world.view);
        prop_assert!(published_with_all || world.published_us > 0);
        // Nothing is done over and over again.
        world.view.at_us += 2 * HOUR_US;
        world.settle();
        for _ in 0..100 {
            world.step(1_000, false);
        }
        let step = world.step(1_000, false);
        prop_assert!(matches!(step, Action::Wait { .. } | Action::Publish(_)), "{step:?}");
    }

    #[test]
    fn what_was_received_by_then_is_visible_when_it_is_published(events in events()) {
        let mut world = World::new();
        // What was inserted when each watermark was read.
        let mut by_watermark: BTreeMap<u64, BTreeMap<u32, u64>> = BTreeMap::new();
        for event in events {
            match event {
                Event::Insert(hours_ago) => world.insert(hours_ago),
                Event::Settle => {
                    world.settle();
                    by_watermark.insert(world.view.at_us, world.view.inserts.clone());
                }
                Event::Pass(us) => world.view.at_us += us,
                Event::Step { took_us, fails } => {
                    if let (Action::Publish(us), false) = (world.step(took_us, fails), fails) {
                        for (hour, inserts) in &by_watermark[&us] {
                            prop_assert!(
                                world.visible(*hour) >= *inserts
                                    || is_expiring(day_of(*hour), &world.view),
                                "hour {hour} at {us}"
                            );
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn the_first_rows_after_an_idle_spell_are_folded_at_once() {
    let mut world = World::new();
    world.insert(0);
    while world.scheduler.open.is_empty() {
        world.step(0, false);
    }
    assert_eq!(world.round.0, world.view.at_us, "without a wait");
    world.view.at_us += 10 * SECOND_US;
    while !matches!(world.step(0, false), Action::Wait { for_rows: true, .. }) {}
    world.insert(0);
    assert!(matches!(world.step(0, false), Action::FoldOpen(_)));
}

#[test]
fn one_slow_round_does_not_set_the_pace() {
    let mut scheduler = Scheduler::default();
    let mut pause_us = |took_us| {
        scheduler.pace(0, took_us);
        scheduler.open_from_us
    };
    assert_eq!(pause_us(60_000), SHARE * 60_000);
    assert_eq!(pause_us(400_000), SHARE * 60_000, "one slow round");
    assert_eq!(pause_us(400_000), SHARE * 400_000, "two");
    assert_eq!(pause_us(10_000), SHORTEST_PACE_US);
}

#[test]
fn a_failure_is_named_once_backed_off_and_holds_up_nothing_else() {
    let mut world = World::new();
    world.insert(0);
    world.view.at_us += 3 * HOUR_US;
    world.insert(0);
    world.settle();
    let failing = Action::FoldHour(START_S);
    let mut retries = Vec::new();
    for _ in 0..200 {
        let (view, at_us) = (world.view.clone(), world.view.at_us);
        let action = world.scheduler.next(&view);
        if action == failing {
            let first = world.scheduler.failed(&action, at_us, at_us);
            assert_eq!(first, retries.is_empty());
            retries.push(at_us);
        } else {
            world.step(0, false);
        }
    }
    let pauses: Vec<u64> = retries.windows(2).map(|w| w[1] - w[0]).collect();
    assert!(pauses.len() > 4 && pauses.iter().zip(&pauses[1..]).all(|(a, b)| a <= b));
    assert!(
        pauses[0] >= FIRST_RETRY_US && pauses.last() <= Some(&(LONGEST_RETRY_US + LOOK_EVERY_US))
    );
    assert!(world.open.len() == 1, "the open hour goes on");
    let (view, at_us) = (world.view.clone(), world.view.at_us + HOUR_US);
    assert_eq!(world.scheduler.next(&View { at_us, ..view }), failing);
    assert!(
        world.scheduler.done(&failing, at_us, at_us),
        "it had failed"
    );
}
