//! How many contexts of the last 30 days a segment matches: counted by the
//! evaluator itself, after a write and every few minutes, and stored, so that
//! reading it costs nothing.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::TryStreamExt;
use serde_json::{Map, Value};
use sluice_schema::id::ProjectId;
use sqlx::PgPool;
use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, interval};

use super::store;
use crate::ApiState;
use crate::flags::eval::{Condition, Context, Device, Operator};

const REFRESH_EVERY: Duration = Duration::from_mins(5);
const RECENT: TimeDelta = TimeDelta::days(30);

/// Projects whose segments are to be counted again. One at a time is: a count
/// reads every context of the project.
#[derive(Debug, Default)]
pub(crate) struct Estimates {
    due: Mutex<BTreeSet<i64>>,
    wake: Notify,
}

impl Estimates {
    /// Counts again behind the request that changed a segment; however many of
    /// them there are, once.
    pub(super) fn soon(&self, project: ProjectId) {
        self.due().insert(project.0);
        self.wake.notify_one();
    }

    fn next(&self) -> Option<ProjectId> {
        self.due().pop_first().map(ProjectId)
    }

    fn due(&self) -> MutexGuard<'_, BTreeSet<i64>> {
        // A set is whole whatever panicked while it was held.
        self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts what is due and, every few minutes, everything again; for ever.
pub(crate) async fn keep_estimating(state: &ApiState) {
    let mut ticks = interval(REFRESH_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => all_are_due(state).await,
            () = state.estimates.wake.notified() => {}
        }
        while let Some(project) = state.estimates.next() {
            refresh_or_warn(&state.postgres, project, state.clock.now()).await;
        }
    }
}

async fn all_are_due(state: &ApiState) {
    let projects = sqlx::query_scalar("select distinct project_id from segments");
    let projects: Result<Vec<i64>, _> = projects.fetch_all(&state.postgres).await;
    match projects {
        Ok(projects) => state.estimates.due().extend(projects),
        Err(error) => tracing::warn!(%error, "cannot estimate the sizes of segments"),
    }
}

async fn refresh_or_warn(pool: &PgPool, project: ProjectId, now: DateTime<Utc>) {
    if let Err(error) = refresh(pool, project, now).await {
        tracing::warn!(%error, %project, "cannot estimate the sizes of segments");
    }
}

/// One segment, and how many contexts it has matched so far.
struct Tally {
    id: i64,
    match_all: bool,
    conditions: Vec<Condition>,
    matches: i64,
}

impl Tally {
    /// No conditions match nobody.
    fn takes(&self, context: &Context<'_>) -> bool {
        let holds = |condition: &Condition| condition.holds(context);
        if self.match_all {
            !self.conditions.is_empty() && self.conditions.iter().all(holds)
        } else {
            self.conditions.iter().any(holds)
        }
    }
}

async fn refresh(pool: &PgPool, project: ProjectId, now: DateTime<Utc>) -> Result<(), sqlx::Error> {
    let mut tallies = load(pool, project).await?;
    let mut contexts = sqlx::query_as::<_, (Value,)>(
        "select attributes from contexts where project_id = $1 and last_seen_at > $2",
    )
    .bind(project.0)
    .bind(now - RECENT)
    .fetch(pool);
    while let Some((attributes,)) = contexts.try_next().await? {
        count(&mut tallies, attributes, now);
    }
    drop(contexts);
    for tally in tallies {
        sqlx::query(
            "update segments set estimated_devices = $3
             where project_id = $1 and id = $2 and estimated_devices <> $3",
        )
        .bind(project.0)
        .bind(tally.id)
        .bind(tally.matches)
        .execute(pool)
        .await?;
    }
    Ok(())
}

async fn load(pool: &PgPool, project: ProjectId) -> Result<Vec<Tally>, sqlx::Error> {
    let segments = store::list(pool, project).await?.into_iter();
    let tally = |segment: super::model::Segment| Tally {
        id: segment.head.id,
        match_all: segment.head.match_type == "all",
        conditions: segment
            .conditions
            .into_iter()
            .filter_map(as_evaluated)
            .collect(),
        matches: 0,
    };
    Ok(segments.map(tally).collect())
}

fn as_evaluated(stored: super::model::Condition) -> Option<Condition> {
    Some(Condition {
        operator: Operator::parse(&stored.operator)?,
        attribute: stored.attribute,
        values: stored.values_json,
    })
}

fn count(tallies: &mut [Tally], attributes: Value, now: DateTime<Utc>) {
    let attributes = match attributes {
        Value::Object(attributes) => attributes,
        _ => Map::new(),
    };
    let device = Device {
        attributes,
        ..Device::default()
    };
    let context = Context {
        device: &device,
        branch: None,
        update_since_us: None,
        now_us: now.timestamp_micros(),
    };
    for tally in tallies {
        tally.matches += i64::from(tally.takes(&context));
    }
}
