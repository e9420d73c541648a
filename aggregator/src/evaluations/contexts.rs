//! Counts reports into the contexts of Postgres, effectively once.
//!
//! One statement stores what the reports of a batch come to and moves the
//! partition's position past the batch, if the position is still where this
//! owner last saw it. So whatever is killed, and whoever else takes itself for
//! the owner: a report below the position is counted, one above is not.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use sluice_eventlog::{Offset, Partition};
use sqlx::PgPool;
use thiserror::Error;
use tokio::time::{Instant, sleep_until};

use super::reports::{Changes, MAX_COUNT, Report};
use crate::batch::BatchId;
use crate::metrics;

/// Where it fails, all of it does. Contexts are changed in the order of their
/// keys, so that two partitions that meet wait for each other and never both.
const COUNT: &str = include_str!("count_contexts.sql");

const CHECK_VIOLATION: &str = "23514";

/// Why reports are not counted. Worth another try.
#[derive(Debug, Error)]
pub enum ContextError {
    /// The database.
    #[error(transparent)]
    Postgres(#[from] sqlx::Error),
    /// Somebody else moved the position, or we did and were not told.
    #[error("the position has moved")]
    Moved,
}

/// The contexts of Postgres.
pub struct Contexts {
    pool: PgPool,
    partitions: Mutex<HashMap<Partition, Known>>,
}

/// What is known of a partition that is ours.
#[derive(Clone, Copy)]
struct Known {
    /// Reports below are counted.
    position: Offset,
    /// When the next statement is due.
    due: Instant,
}

impl Contexts {
    /// Over a database that the api has migrated, or will.
    pub fn new(pool: PgPool) -> Self {
        Self {
            pool,
            partitions: Mutex::default(),
        }
    }

    /// The partition may have another owner from now on.
    pub(crate) fn forget(&self, partition: Partition) {
        self.lock().remove(&partition);
    }

    /// Counts those reports of a batch that are not counted yet, in one
    /// statement; `pace` is the least time between two of a partition.
    pub(crate) async fn count(
        &self,
        id: &BatchId,
        reports: &[Report],
        pace: Duration,
    ) -> Result<(), ContextError> {
        let known = self.known(id).await?;
        let counted = |report: &&Report| report.offset >= known.position;
        let changes = Changes::of(reports.iter().filter(counted));
        if changes.0.is_empty() {
            return Ok(());
        }
        sleep_until(known.due).await;
        let position = id.last + 1;
        let columns = Columns::of(&changes);
        let stored = columns.store(&self.pool, id, known.position, position);
        // Until it is known what came of it, what is stored has to be looked up.
        self.forget(id.partition);
        match stored.await {
            Ok(true) => {
                let due = Instant::now() + pace;
                self.lock().insert(id.partition, Known { position, due });
                Ok(())
            }
            Ok(false) => Err(ContextError::Moved),
            Err(error) if is_about_data(&error) => {
                metrics::contexts_dropped(changes.0.len());
                tracing::error!(%error, "contexts that cannot be stored are dropped");
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn known(&self, id: &BatchId) -> Result<Known, sqlx::Error> {
        if let Some(known) = self.lock().get(&id.partition) {
            return Ok(*known);
        }
        let position: Option<i64> = sqlx::query_scalar(
            "select next_offset from context_positions where source = $1 and log_partition = $2",
        )
        .bind(&*id.source)
        .bind(id.partition as i32)
        .fetch_optional(&self.pool)
        .await?;
        let known = Known {
            position: position.map_or(0, |position| position as Offset),
            due: Instant::now(),
        };
        self.lock().insert(id.partition, known);
        Ok(known)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Partition, Known>> {
        // Each statement leaves the map whole.
        self.partitions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Values that a column cannot hold, or limits of the server: no retry helps.
fn is_about_data(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    code.is_some_and(|code| {
        code.starts_with("22") || code.starts_with("54") || code == CHECK_VIOLATION
    })
}

/// Changes in the form in which they are sent.
#[derive(Default)]
struct Columns<'c> {
    project: Vec<i64>,
    kind: Vec<&'c str>,
    targeting_key: Vec<&'c str>,
    name: Vec<Option<&'c str>>,
    attributes: Vec<&'c str>,
    first_at: Vec<DateTime<Utc>>,
    last_at: Vec<DateTime<Utc>>,
    /// Of each entry: the number of its context, from 1.
    context: Vec<i64>,
    flag_key: Vec<&'c str>,
    channel: Vec<&'c str>,
    value: Vec<&'c str>,
    count: Vec<i64>,
    evaluated_at: Vec<DateTime<Utc>>,
}

impl<'c> Columns<'c> {
    fn of(changes: &'c Changes<'_>) -> Self {
        let mut columns = Self::default();
        for (number, (subject, change)) in (1..).zip(&changes.0) {
            columns.project.push(subject.project);
            columns.kind.push(&subject.kind);
            columns.targeting_key.push(&subject.targeting_key);
            columns.name.push(change.name);
            columns.attributes.push(change.attributes);
            columns.first_at.push(instant(change.first_us));
            columns.last_at.push(instant(change.last_us));
            for ((flag_key, channel), flag) in &change.flags {
                columns.context.push(number);
                columns.flag_key.push(flag_key);
                columns.channel.push(channel);
                columns.value.push(flag.value);
                columns.count.push(flag.count);
                columns.evaluated_at.push(instant(flag.last_us));
            }
        }
        columns
    }

    /// Whether the position was where it was expected, so that this is stored.
    async fn store(
        &self,
        pool: &PgPool,
        id: &BatchId,
        expected: Offset,
        next: Offset,
    ) -> Result<bool, sqlx::Error> {
        sqlx::query_scalar(COUNT)
            .bind(&*id.source)
            .bind(id.partition as i32)
            .bind(expected as i64)
            .bind(next as i64)
            .bind(&self.project)
            .bind(&self.kind)
            .bind(&self.targeting_key)
            .bind(&self.name)
            .bind(&self.attributes)
            .bind(&self.first_at)
            .bind(&self.last_at)
            .bind(&self.context)
            .bind(&self.flag_key)
            .bind(&self.channel)
            .bind(&self.value)
            .bind(&self.count)
            .bind(&self.evaluated_at)
            .bind(MAX_COUNT)
            .fetch_one(pool)
            .await
    }
}

fn instant(us: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(us).unwrap_or_default()
}

#[cfg(test)]
mod tests;
