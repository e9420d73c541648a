//! The plan against a world in which everything goes wrong in every order.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;

const DEADLINE: Duration = Duration::from_secs(1);

type Id = u32;

#[derive(Clone, Debug)]
enum Action {
    Append {
        spool_takes: bool,
    },
    Advance {
        ms: u64,
    },
    BeginSpool,
    EndSpool {
        takes: bool,
    },
    /// An attempt arrives, and its report is still on its way.
    Land(Index),
    Report(Index, Report),
    Drain {
        frames: usize,
    },
    Ready(bool),
    /// Attempts under way land or not; a write under way was synced or not.
    Crash {
        lands: bool,
        synced: bool,
    },
}

fn any_action() -> impl Strategy<Value = Action> {
    let report = prop_oneof![
        4 => Just(Report::Stored),
        1 => Just(Report::Refused),
        2 => Just(Report::Unknown),
    ];
    prop_oneof![
        6 => prop::bool::weighted(0.9).prop_map(|spool_takes| Action::Append { spool_takes }),
        4 => (0_u64..1_500).prop_map(|ms| Action::Advance { ms }),
        5 => Just(Action::BeginSpool),
        5 => prop::bool::weighted(0.9).prop_map(|takes| Action::EndSpool { takes }),
        3 => any::<Index>().prop_map(Action::Land),
        6 => (any::<Index>(), report).prop_map(|(i, r)| Action::Report(i, r)),
        6 => (1_usize..4).prop_map(|frames| Action::Drain { frames }),
        1 => any::<bool>().prop_map(Action::Ready),
        1 => any::<(bool, bool)>().prop_map(|(lands, synced)| Action::Crash { lands, synced }),
    ]
}

/// A frame, and whether it says that it may be there already.
#[derive(Clone, Copy, Debug)]
struct Frame {
    id: Id,
    marked: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Source {
    Waiter(Ticket),
    Spool(Offset),
}

struct Attempt {
    frame: Frame,
    replay: bool,
    landed: bool,
}

struct World {
    now: Instant,
    plan: Plan,
    ready: bool,
    next_id: Id,
    /// What the primary holds of one partition, in order.
    primary: Vec<Frame>,
    spool: Vec<Frame>,
    drained: Offset,
    sending: Offset,
    attempts: BTreeMap<Source, Attempt>,
    writing: Option<(ToSpool, Frame)>,
    ids: BTreeMap<Ticket, Id>,
    acknowledged: BTreeSet<Id>,
}

impl World {
    fn new() -> Self {
        Self {
            now: Instant::now(),
            plan: Plan::new(DEADLINE, 0, 0),
            ready: true,
            next_id: 0,
            primary: Vec::new(),
            spool: Vec::new(),
            drained: 0,
            sending: 0,
            attempts: BTreeMap::new(),
            writing: None,
            ids: BTreeMap::new(),
            acknowledged: BTreeSet::new(),
        }
    }

    fn append(&mut self, spool_takes: bool) {
        let frame = Frame {
            id: self.next_id,
            marked: false,
        };
        self.next_id += 1;
        match self.plan.route(self.now, self.ready) {
            Route::Primary(ticket) => {
                self.ids.insert(ticket, frame.id);
                self.attempt(Source::Waiter(ticket), frame, false);
            }
            Route::Spool if spool_takes => {
                self.spool.push(frame);
                self.acknowledged.insert(frame.id);
            }
            Route::Spool => self.plan.not_spooled(),
        }
    }

    fn attempt(&mut self, source: Source, frame: Frame, replay: bool) {
        let attempt = Attempt {
            frame,
            replay,
            landed: false,
        };
        let other = self.attempts.insert(source, attempt);
        assert!(other.is_none(), "{source:?} was sent twice at a time");
    }

    fn answer(&mut self, ticket: Ticket, answer: Option<Answer>) {
        if answer == Some(Answer::Durable) {
            let new = self.acknowledged.insert(self.ids[&ticket]);
            assert!(new, "answered twice");
        }
    }

    fn land(&mut self, source: Source) {
        let attempt = self.attempts.get_mut(&source).unwrap();
        if !std::mem::replace(&mut attempt.landed, true) {
            self.primary.push(attempt.frame);
        }
    }

    fn pick(&self, index: Index) -> Option<Source> {
        let sources: Vec<Source> = self.attempts.keys().copied().collect();
        (!sources.is_empty()).then(|| *index.get(&sources))
    }

    /// An attempt's last word: after it, it cannot land any more.
    fn report(&mut self, source: Source, wanted: Report) {
        if wanted == Report::Stored {
            self.land(source);
        }
        let attempt = self.attempts.remove(&source).unwrap();
        let report = match wanted {
            Report::Refused if attempt.landed => Report::Unknown,
            other => other,
        };
        match source {
            Source::Waiter(ticket) => {
                let answer = self.plan.reported(ticket, report);
                self.answer(ticket, answer);
            }
            Source::Spool(offset) => {
                self.plan
                    .drain_reported(offset, attempt.replay, report, self.now);
            }
        }
    }

    fn begin_spool(&mut self) {
        if self.writing.is_some() {
            return;
        }
        if let Some(what) = self.plan.next_to_spool(self.now) {
            let frame = Frame {
                id: self.ids[&what.ticket],
                marked: what.replay,
            };
            self.writing = Some((what, frame));
        }
    }

    fn end_spool(&mut self, takes: bool) {
        let Some((what, frame)) = self.writing.take() else {
            return;
        };
        let answer = if takes {
            self.spool.push(frame);
            self.plan.spooled(what.ticket, self.spool.len() as u64 - 1)
        } else {
            self.plan.spool_refused(what.ticket)
        };
        self.answer(what.ticket, answer);
    }

    fn drain(&mut self, frames: usize) {
        if let Some(next) = self.plan.end_batch() {
            self.drained = next;
        }
        if !self.ready {
            return;
        }
        if !self.plan.is_draining() {
            let next = (self.drained + frames as u64).min(self.spool.len() as u64);
            self.sending = self.sending.max(next);
            self.plan.begin(self.drained..next);
        }
        while let Some(ToDrain { offset, replay }) = self.plan.next_to_drain(self.now) {
            let mut frame = self.spool[offset as usize];
            frame.marked |= replay;
            self.attempt(Source::Spool(offset), frame, replay);
        }
    }

    fn crash(&mut self, lands: bool, synced: bool) {
        for source in self.attempts.keys().copied().collect::<Vec<_>>() {
            if lands {
                self.land(source);
            }
        }
        self.attempts.clear();
        if let Some((_, frame)) = self.writing.take()
            && synced
        {
            self.spool.push(frame);
        }
        self.ids.clear();
        let backlog = self.spool.len() as u64 - self.drained;
        self.plan = Plan::new(DEADLINE, backlog, self.sending);
    }

    fn run(&mut self, action: &Action) {
        match *action {
            Action::Append { spool_takes } => self.append(spool_takes),
            Action::Advance { ms } => self.now += Duration::from_millis(ms),
            Action::BeginSpool => self.begin_spool(),
            Action::EndSpool { takes } => self.end_spool(takes),
            Action::Land(index) => {
                if let Some(source) = self.pick(index) {
                    self.land(source);
                }
            }
            Action::Report(index, report) => {
                if let Some(source) = self.pick(index) {
                    self.report(source, report);
                }
            }
            Action::Drain { frames } => self.drain(frames),
            Action::Ready(ready) => self.ready = ready,
            Action::Crash { lands, synced } => self.crash(lands, synced),
        }
    }

    /// Lets everything work again, until nothing is left to do.
    fn settle(&mut self) {
        self.ready = true;
        for _ in 0..10_000 {
            self.now += DEADLINE;
            self.end_spool(true);
            self.begin_spool();
            self.drain(3);
            for source in self.attempts.keys().copied().collect::<Vec<_>>() {
                self.report(source, Report::Stored);
            }
            let idle = self.writing.is_none() && !self.plan.has_waiters();
            if idle && self.plan.backlog() == 0 && self.drained == self.spool.len() as u64 {
                return;
            }
        }
        panic!("the spool is never empty: {:?}", self.plan);
    }

    /// What a reader counts that looks a marked frame up in what lies before it.
    fn counted(&self) -> BTreeMap<Id, u32> {
        let mut counts = BTreeMap::new();
        for frame in &self.primary {
            let count = counts.entry(frame.id).or_insert(0);
            if !frame.marked || *count == 0 {
                *count += 1;
            }
        }
        counts
    }

    fn check(&self) {
        let counts = self.counted();
        for id in &self.acknowledged {
            assert_eq!(counts.get(id), Some(&1), "acknowledged frame {id}");
        }
        assert!(counts.values().all(|count| *count == 1), "{counts:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]
    #[test]
    fn what_is_acknowledged_is_counted_once(actions in proptest::collection::vec(any_action(), 1..120)) {
        let mut world = World::new();
        for action in actions {
            world.run(&action);
        }
        world.settle();
        world.check();
    }
}

fn primary(plan: &mut Plan, now: Instant) -> Ticket {
    match plan.route(now, true) {
        Route::Primary(ticket) => ticket,
        Route::Spool => panic!("the primary is up"),
    }
}

#[test]
fn a_late_frame_is_spooled_with_the_mark_and_drained_only_after_its_report() {
    let (start, mut plan) = (Instant::now(), Plan::new(DEADLINE, 0, 0));
    let ticket = primary(&mut plan, start);
    assert_eq!(plan.next_due(), Some(start + DEADLINE));
    assert_eq!(plan.next_to_spool(start + DEADLINE / 2), None);
    let late = plan.next_to_spool(start + DEADLINE).unwrap();
    assert!(late.replay && late.reason == Reason::Late);
    assert_eq!(plan.spooled(ticket, 0), Some(Answer::Durable));
    assert_eq!(plan.route(start, true), Route::Spool, "known to be away");
    plan.begin([0]);
    assert_eq!(
        plan.next_to_drain(start + DEADLINE),
        None,
        "the original may yet arrive"
    );
    assert_eq!(plan.reported(ticket, Report::Unknown), None);
    let drained = plan.next_to_drain(start + DEADLINE).unwrap();
    assert_eq!(
        (drained.offset, drained.replay),
        (0, false),
        "marked already"
    );
}

#[test]
fn a_frame_that_turns_out_stored_is_not_sent_again() {
    let (start, mut plan) = (Instant::now(), Plan::new(DEADLINE, 0, 0));
    let ticket = primary(&mut plan, start);
    plan.next_to_spool(start + DEADLINE).unwrap();
    plan.spooled(ticket, 0);
    plan.reported(ticket, Report::Stored);
    plan.begin([0]);
    assert_eq!(plan.next_to_drain(start), None);
    assert_eq!((plan.end_batch(), plan.backlog()), (Some(1), 0));
    primary(&mut plan, start);
}

#[test]
fn a_refused_frame_is_spooled_without_the_mark() {
    let (start, mut plan) = (Instant::now(), Plan::new(DEADLINE, 0, 0));
    let ticket = primary(&mut plan, start);
    assert_eq!(plan.reported(ticket, Report::Refused), None);
    let refused = plan.next_to_spool(start).unwrap();
    assert!(!refused.replay && refused.reason == Reason::Failed);
}

#[test]
fn without_room_in_the_spool_the_primary_has_the_last_word() {
    let (start, mut plan) = (Instant::now(), Plan::new(DEADLINE, 0, 0));
    let ticket = primary(&mut plan, start);
    plan.next_to_spool(start + DEADLINE).unwrap();
    assert_eq!(plan.spool_refused(ticket), None);
    assert!(plan.has_waiters());
    assert_eq!(plan.reported(ticket, Report::Stored), Some(Answer::Durable));
    let ticket = primary(&mut plan, start);
    plan.next_to_spool(start + DEADLINE).unwrap();
    plan.spool_refused(ticket);
    assert_eq!(plan.reported(ticket, Report::Unknown), Some(Answer::Failed));
}

#[test]
fn while_the_primary_is_down_one_frame_at_a_time_asks_whether_it_is_back() {
    let (now, mut plan) = (Instant::now(), Plan::new(DEADLINE, 3, 1));
    plan.begin(0..3);
    let first = plan.next_to_drain(now).unwrap();
    assert!(first.replay, "an earlier process may have sent it");
    assert_eq!(plan.next_to_drain(now), None);
    plan.drain_reported(0, true, Report::Unknown, now);
    assert_eq!(plan.next_to_drain(now), None, "not at once");
    let later = now + DRAIN_AGAIN_AFTER;
    assert_eq!(plan.next_to_drain(later).map(|d| d.offset), Some(0));
    plan.drain_reported(0, true, Report::Stored, later);
    let rest: Vec<_> = std::iter::from_fn(|| plan.next_to_drain(later)).collect();
    assert_eq!(rest.iter().map(|d| d.offset).collect::<Vec<_>>(), [1, 2]);
    assert!(rest.iter().all(|d| !d.replay), "never sent before");
}
