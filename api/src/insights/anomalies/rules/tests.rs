use proptest::prelude::*;

use super::*;

fn at(text: &str) -> DateTime<Utc> {
    text.parse().expect("an instant")
}

fn hour_to(now: DateTime<Utc>) -> Window {
    Window {
        from: now - TimeDelta::hours(1),
        to: now,
    }
}

fn day_of(per_hour: u64) -> Baseline {
    Baseline {
        events: 24 * per_hour,
        hours: 24,
    }
}

fn one_device(events: u64) -> Trailing {
    Trailing { events, devices: 1 }
}

/// One device without launches, as in the contract's examples.
fn alone() -> Context {
    Context {
        active_devices: 1,
        ..Context::default()
    }
}

fn verdict(
    kind: Kind,
    trailing: Trailing,
    baseline: Baseline,
    context: &Context,
) -> Option<Severity> {
    spike(trailing.excess(kind, baseline)?, trailing, context)
}

fn errors(events: u64, baseline: Baseline) -> Option<Severity> {
    verdict(Kind::Errors, one_device(events), baseline, &alone())
}

fn crashes(events: u64, baseline: Baseline) -> Option<Severity> {
    verdict(Kind::Crashes, one_device(events), baseline, &alone())
}

#[test]
fn the_examples_of_the_contract() {
    assert_eq!(errors(10, day_of(3)), Some(Severity::Warning));
    assert_eq!(Severity::Warning.status(), "degraded");
    assert_eq!(errors(20, day_of(2)), Some(Severity::Critical));
    assert_eq!(Severity::Critical.status(), "incident");
}

#[test]
fn an_excess_is_above_its_floor_and_twice_the_usual() {
    assert_eq!(errors(5, day_of(0)), None);
    assert_eq!(errors(6, day_of(0)), Some(Severity::Critical));
    assert_eq!(errors(6, day_of(3)), None);
    assert_eq!(errors(7, day_of(3)), Some(Severity::Warning));
    assert_eq!(errors(15, day_of(3)), Some(Severity::Warning));
    assert_eq!(errors(16, day_of(3)), Some(Severity::Critical));
    assert_eq!(crashes(2, day_of(0)), None);
    assert_eq!(crashes(3, day_of(0)), Some(Severity::Warning));
    assert_eq!(crashes(6, day_of(1)), Some(Severity::Critical));
}

#[test]
fn nothing_is_usual_before_three_hours() {
    let hours = |hours| Baseline { events: 0, hours };
    assert_eq!(errors(50, hours(2)), None);
    assert_eq!(errors(50, hours(3)), Some(Severity::Critical));
    let first = at("2026-03-01T09:59:00Z");
    let since = |now| Baseline::hours_since(first, at(now));
    assert_eq!(since("2026-03-01T09:59:30Z"), 0);
    assert_eq!(since("2026-03-01T12:00:00Z"), 3);
    assert_eq!(since("2026-03-09T12:00:00Z"), 24);
    // An hour without errors counts.
    let half_quiet = Baseline {
        events: 12,
        hours: 24,
    };
    assert_eq!(half_quiet.per_hour(), Some(1.0));
}

#[test]
fn growing_traffic_is_no_spike() {
    let share = |launches, failed| Share {
        launches,
        sessions: launches,
        failed,
    };
    let trailing = Trailing {
        events: 300,
        devices: 200,
    };
    let of = |now, usual| {
        let context = Context {
            now,
            usual,
            active_devices: 1_000,
        };
        verdict(Kind::Errors, trailing, day_of(100), &context)
    };
    assert_eq!(of(share(3_000, 300), share(24_000, 2_400)), None);
    assert_eq!(of(share(1_500, 300), share(24_000, 2_400)), None);
    assert_eq!(
        of(share(1_499, 300), share(24_000, 2_400)),
        Some(Severity::Warning)
    );
    // Nobody can tell without launches.
    assert_eq!(
        of(share(0, 300), share(24_000, 2_400)),
        Some(Severity::Warning)
    );
    assert_eq!(of(share(3_000, 300), share(0, 0)), Some(Severity::Warning));
    assert_eq!(
        of(share(3_000, 300), share(24_000, 0)),
        Some(Severity::Warning)
    );
}

#[test]
fn one_device_makes_a_spike_only_where_there_are_few() {
    let of = |devices, active_devices| {
        let context = Context {
            active_devices,
            ..Context::default()
        };
        let trailing = Trailing {
            events: 50,
            devices,
        };
        verdict(Kind::Errors, trailing, day_of(1), &context).is_some()
    };
    assert!(of(1, 4) && !of(1, 5) && of(2, 5) && of(0, 4) && !of(0, 5));
}

#[test]
fn a_latency_spike_is_twice_the_usual_over_fifty_samples() {
    let latency = |p95_ms, samples| Latency { p95_ms, samples };
    let usual = latency(100.0, 50);
    assert_eq!(latency(200.0, 50).beside(usual), None);
    assert_eq!(latency(201.0, 50).beside(usual), Some(Severity::Info));
    assert_eq!(latency(400.0, 50).beside(usual), Some(Severity::Info));
    assert_eq!(latency(401.0, 50).beside(usual), Some(Severity::Warning));
    assert_eq!(latency(900.0, 49).beside(usual), None);
    assert_eq!(latency(900.0, 50).beside(latency(100.0, 49)), None);
    assert_eq!(latency(0.0, 50).beside(latency(0.0, 50)), None);
}

#[test]
fn an_open_row_is_followed_and_resolved_after_two_quiet_hours() {
    let opened = at("2026-03-01T12:30:00Z");
    let mut open = Known {
        open: true,
        severity: Severity::Critical,
        detected_at: opened,
        quiet_since: None,
    };
    let seen = |known: &Known, minutes, found| {
        step(
            Some(known),
            found,
            hour_to(opened + TimeDelta::minutes(minutes)),
        )
    };
    // A second batch changes the row, and its severity does not fall.
    assert_eq!(
        seen(&open, 5, Some(Severity::Warning)),
        Step::Go(Severity::Critical)
    );
    let since = opened + TimeDelta::minutes(1);
    assert_eq!(seen(&open, 61, None), Step::Quiet(since));
    open.quiet_since = Some(since);
    assert_eq!(seen(&open, 120, None), Step::Nothing);
    assert_eq!(seen(&open, 121, None), Step::Resolve);
    assert_eq!(
        seen(&open, 121, Some(Severity::Info)),
        Step::Go(Severity::Critical)
    );
    // Within the hour in which it began there is no second one.
    let over = Known {
        open: false,
        ..open
    };
    assert_eq!(seen(&over, 29, Some(Severity::Critical)), Step::Nothing);
    assert_eq!(
        seen(&over, 30, Some(Severity::Warning)),
        Step::Open(Severity::Warning)
    );
    assert_eq!(seen(&over, 30, None), Step::Nothing);
}

/// A table with the row that the store would show to [`step`].
#[derive(Debug, Default)]
struct Table(Vec<Known>);

impl Table {
    fn known(&self, now: DateTime<Utc>) -> Option<&Known> {
        let relevant =
            |row: &&Known| row.open || start_of_hour(row.detected_at) == start_of_hour(now);
        let open = self.0.iter().find(|row| row.open);
        open.or_else(|| self.0.iter().rfind(relevant))
    }

    fn open(&mut self) -> &mut Known {
        self.0.iter_mut().find(|row| row.open).expect("an open row")
    }

    fn take(&mut self, step: Step, now: DateTime<Utc>) {
        match step {
            Step::Nothing => {}
            Step::Open(severity) => self.0.push(Known {
                open: true,
                severity,
                detected_at: now,
                quiet_since: None,
            }),
            Step::Go(severity) => {
                assert!(severity >= self.open().severity, "a severity fell");
                self.open().severity = severity;
                self.open().quiet_since = None;
            }
            Step::Quiet(since) => self.open().quiet_since = Some(since),
            Step::Resolve => self.open().open = false,
        }
    }
}

fn found() -> impl Strategy<Value = Option<Severity>> {
    prop_oneof![
        3 => Just(None),
        1 => prop_oneof![Just(Severity::Info), Just(Severity::Warning), Just(Severity::Critical)].prop_map(Some),
    ]
}

proptest! {
    #[test]
    fn rows_never_pile_up_and_quiet_ones_close(
        rounds in proptest::collection::vec((1_i64..45, found()), 1..200),
    ) {
        let mut table = Table::default();
        let (mut now, mut loud) = (at("2026-03-01T00:00:00Z"), None);
        for (minutes, found) in rounds {
            now += TimeDelta::minutes(minutes);
            let next = step(table.known(now), found, hour_to(now));
            table.take(next, now);
            if found.is_some() {
                loud = Some(now);
            }
            let open = table.0.iter().filter(|row| row.open).count();
            prop_assert!(open <= 1, "{table:?}");
            let hours: Vec<_> = table.0.iter().map(|row| start_of_hour(row.detected_at)).collect();
            prop_assert!(hours.is_sorted_by(|a, b| a < b), "two rows in an hour: {table:?}");
            // What was never quiet for two hours is still open; what has been
            // for longer than two hours and a pause is not.
            let quiet = loud.map(|loud| now - loud);
            if found.is_some() && open == 0 {
                let last = table.0.last().expect("one that began this hour");
                prop_assert_eq!(start_of_hour(last.detected_at), start_of_hour(now));
            }
            if quiet.is_some_and(|quiet| quiet >= TimeDelta::minutes(60 + 45 + 45)) {
                prop_assert_eq!(open, 0, "still open {:?} after {:?}", table, quiet);
            }
        }
    }

    #[test]
    fn more_errors_are_never_less_bad(events in 0_u64..500, more in 0_u64..500, usual in 0_u64..50, hours in 0_i64..=24) {
        let baseline = Baseline { events: usual * 24, hours };
        prop_assert!(errors(events, baseline) <= errors(events + more, baseline));
    }
}
