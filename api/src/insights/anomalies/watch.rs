//! The watch itself: one round after the other.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::{MissedTickBehavior, interval};

use super::adoption;
use super::evidence::{self, Evidence};
use super::measure::{Alarm, What, alarms, trailing_hour};
use super::rules::{Kind, Severity, Step, step};
use super::store::{Report, Stored, Subject, Turn, take_turn};
use crate::ApiState;
use crate::error::ApiResult;

/// How often a process tries to take the turn.
const TRY_EVERY: Duration = Duration::from_secs(15);
/// With data that is older nothing can be called quiet.
const FRESH: TimeDelta = TimeDelta::minutes(5);

/// Watches for ever. A store that is away is told of once, and tried again.
pub(crate) async fn keep_watching(state: &ApiState) {
    let mut ticks = interval(TRY_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut away = false;
    loop {
        ticks.tick().await;
        match watch_once(state).await {
            Ok(_) => away = false,
            Err(error) => {
                if !away {
                    tracing::warn!(cause = ?error, "cannot look for anomalies; trying again");
                }
                away = true;
            }
        }
    }
}

/// One round over all projects (telemetry.md §6); false where another process
/// has the turn or had it in the last 30 s. Nothing is written by halves.
pub async fn watch_once(state: &ApiState) -> ApiResult<bool> {
    let now = state.clock.now();
    let Some(mut turn) = take_turn(&state.postgres, now).await? else {
        return Ok(false);
    };
    match round(state, &mut turn, now).await {
        Ok(()) => turn.end().await?,
        Err(error) => {
            turn.leave().await;
            return Err(error);
        }
    }
    Ok(true)
}

async fn round(state: &ApiState, turn: &mut Turn, now: DateTime<Utc>) -> ApiResult<()> {
    let insights = &state.insights;
    let folds = insights.folds.snapshot(now).await?;
    let fresh = folds.folded_until.is_some_and(|until| until + FRESH >= now);
    let known = turn.known().await?;
    let found = alarms(&insights.reader, &folds, now).await?;
    let subject = |alarm: &Alarm| (alarm.place.clone(), alarm.kind);
    let found: BTreeMap<Subject, Alarm> = found
        .into_iter()
        .map(|alarm| (subject(&alarm), alarm))
        .collect();

    for (subject, alarm) in &found {
        follow(state, turn, subject, alarm, known.get(subject), now).await?;
    }
    for (subject, stored) in &known {
        if fresh && !found.contains_key(subject) {
            calm(turn, stored, now).await?;
        }
    }
    // A writer that is behind has not brought what devices say of today.
    let behind = folds.folded_until.is_some() && !fresh;
    let last_took = insights.adoption_cost.last();
    if !behind && adoption::is_due(last_took, turn.last_round, now) {
        adoption::look(state, turn, now).await?;
    }
    Ok(())
}

/// Opens a row for an alarm, or follows the open one.
async fn follow(
    state: &ApiState,
    turn: &mut Turn,
    subject: &Subject,
    alarm: &Alarm,
    stored: Option<&Stored>,
    now: DateTime<Utc>,
) -> ApiResult<()> {
    let known = stored.map(|stored| &stored.known);
    let next = step(known, Some(alarm.severity), trailing_hour(now));
    match (next, stored) {
        (Step::Open(severity), _) => {
            let report = report(state, alarm, severity, now).await;
            turn.open(subject, &report).await?;
        }
        (Step::Go(severity), Some(stored))
            if stored.bare || alarm.count() > stored.count || severity > stored.known.severity =>
        {
            let report = report(state, alarm, severity, now).await;
            turn.worsen(stored.id, &report).await?;
        }
        (Step::Go(_), Some(stored)) => turn.quiet(stored.id, None).await?,
        _ => {}
    }
    Ok(())
}

/// Follows a row for which there is no alarm.
async fn calm(turn: &mut Turn, stored: &Stored, now: DateTime<Utc>) -> ApiResult<()> {
    match step(Some(&stored.known), None, trailing_hour(now)) {
        Step::Quiet(since) => turn.quiet(stored.id, Some(since)).await?,
        Step::Resolve => turn.resolve(stored.id).await?,
        _ => {}
    }
    Ok(())
}

/// What a row says. One channel that is too large for a closer look must not
/// keep all others from theirs: its row stays bare, and a later round tries again.
async fn report(state: &ApiState, alarm: &Alarm, severity: Severity, now: DateTime<Utc>) -> Report {
    let reader = &state.insights.reader;
    let evidence = evidence::of(reader, &state.postgres, alarm, now).await;
    let evidence = evidence.unwrap_or_else(|error| {
        let (project, channel) = &alarm.place;
        tracing::warn!(cause = ?error, %project, channel, "cannot look closer at an anomaly");
        Evidence {
            devices: alarm.devices(),
            ..Evidence::default()
        }
    });
    Report {
        severity,
        description: describe(alarm, evidence.devices),
        count: alarm.count(),
        evidence,
    }
}

/// The multiple of the usual, and the counts.
fn describe(alarm: &Alarm, devices: u64) -> String {
    let devices = counted(devices, "device");
    match &alarm.what {
        What::Errors { trailing, per_hour } => {
            let what = if alarm.kind == Kind::Crashes {
                counted(trailing.events, "crash")
            } else {
                counted(trailing.events, "error")
            };
            let times = trailing.events as f64 / per_hour;
            format!(
                "{what} on {devices} in an hour: {times:.1} times the usual {per_hour:.1} an hour"
            )
        }
        What::Latency { metric, now, usual } => format!(
            "p95 of {metric} is {:.0} ms over {} on {devices} in an hour: {:.1} times the usual \
             {:.0} ms",
            now.p95_ms,
            counted(now.samples, "sample"),
            now.p95_ms / usual.p95_ms.max(1.0),
            usual.p95_ms
        ),
    }
}

fn counted(n: u64, what: &str) -> String {
    let plural = match (n, what) {
        (1, _) => "",
        (_, "crash") => "es",
        _ => "s",
    };
    format!("{n} {what}{plural}")
}

#[cfg(test)]
mod tests {
    use sluice_schema::id::ProjectId;

    use super::super::rules::{Latency, Trailing};
    use super::*;

    fn alarm(kind: Kind, what: What) -> Alarm {
        Alarm {
            place: (ProjectId(1), "production".to_owned()),
            kind,
            severity: Severity::Warning,
            what,
        }
    }

    #[test]
    fn a_description_has_the_multiple_and_the_counts() {
        let errors = |kind, events, devices, per_hour| {
            let trailing = Trailing { events, devices };
            describe(&alarm(kind, What::Errors { trailing, per_hour }), devices)
        };
        assert_eq!(
            errors(Kind::Errors, 10, 1, 3.0),
            "10 errors on 1 device in an hour: 3.3 times the usual 3.0 an hour"
        );
        assert_eq!(
            errors(Kind::Crashes, 3, 2, 1.0),
            "3 crashes on 2 devices in an hour: 3.0 times the usual 1.0 an hour"
        );
        let latency = |p95_ms, samples| Latency { p95_ms, samples };
        let what = What::Latency {
            metric: "startup_cold".to_owned(),
            now: latency(900.0, 60),
            usual: latency(300.0, 400),
        };
        assert_eq!(
            describe(&alarm(Kind::Latency, what), 7),
            "p95 of startup_cold is 900 ms over 60 samples on 7 devices in an hour: 3.0 times \
             the usual 300 ms"
        );
    }
}
