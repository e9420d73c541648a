//! Folds device-hours into the tables that reads use.
//!
//! One aggregator folds at a time: the owner of partition 0. Two at once, while
//! that moves, do the work twice and no harm: each attempt has a version of its
//! own, and the newest that is committed counts (docs/decisions/0040). What to
//! do next is decided in [`schedule`]; here it is done. An action that fails is
//! tried again later, as a new attempt, and holds up nothing else.

pub mod garbage;
pub mod schedule;
pub mod store;

use std::time::Duration;

use clickhouse::error::Result;
use sluice_eventlog::Partition;
use sluice_schema::clickhouse::ledger::{Fold, Kind};
use sluice_schema::id::FrameId;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::metrics::{self, FoldKind};
use crate::progress::{Progress, ProgressBoard};
use crate::send::now_us;
use schedule::{Action, Scheduler, View};
use store::FoldStore;

/// Whose owner folds.
const FOLDING_PARTITION: Partition = 0;
/// How often an aggregator looks whether it has become that owner.
const OWNER_EVERY: Duration = Duration::from_millis(500);
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Bits of a version that are random, so that two attempts never share one.
const RANDOM_BITS: u64 = 0xffff;

/// When to take the next step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// At once.
    Now,
    /// After a pause, or already when rows are inserted if `for_rows`.
    Wait {
        /// How long.
        pause: Duration,
        /// Whether new rows would change anything.
        for_rows: bool,
    },
}

/// What a folder works with.
pub struct Folder {
    store: FoldStore,
    /// Topic and incarnation of the log, and how many partitions it has.
    source: String,
    partitions: u32,
    scheduler: Scheduler,
}

impl Folder {
    /// Nothing is folded yet. `source` names the log as its rows do.
    pub fn new(store: FoldStore, source: String, partitions: u32) -> Self {
        Self {
            store,
            source,
            partitions,
            scheduler: Scheduler::default(),
        }
    }

    /// Folds while this process owns the folding partition, until `stop`.
    pub(crate) async fn run(mut self, progress: &ProgressBoard, stop: CancellationToken) {
        stop.run_until_cancelled(self.run_for_ever(progress)).await;
    }

    async fn run_for_ever(&mut self, progress: &ProgressBoard) {
        let mut inserted = progress.subscribe();
        let mut pause = FIRST_PAUSE;
        loop {
            if !progress.owns(FOLDING_PARTITION) {
                tokio::time::sleep(OWNER_EVERY).await;
                continue;
            }
            let seen = inserted.borrow().inserts;
            match self.step(now_us() as u64).await {
                Ok(next) => {
                    pause = FIRST_PAUSE;
                    wait(next, &mut inserted, seen).await;
                }
                Err(error) => {
                    log_failure(pause == FIRST_PAUSE, "look at the store", &error);
                    tokio::time::sleep(pause).await;
                    pause = LONGEST_PAUSE.min(pause * 2);
                }
            }
        }
    }

    /// Does what is due at `at_us`, microseconds since 1970.
    ///
    /// # Errors
    /// The store could not be looked at. What else fails is tried again by itself.
    pub async fn step(&mut self, at_us: u64) -> Result<Next> {
        let view = self
            .store
            .look(&self.source, self.partitions, at_us)
            .await?;
        let action = self.scheduler.next(&view);
        if let Action::Wait { until_us, for_rows } = action {
            let pause = Duration::from_micros(until_us.saturating_sub(at_us));
            return Ok(Next::Wait { pause, for_rows });
        }
        let done = self.act(&action, &view).await;
        self.take_in(&action, &view, done);
        Ok(Next::Now)
    }

    fn take_in(&mut self, action: &Action, view: &View, done: Result<()>) {
        let to_us = (now_us() as u64).max(view.at_us);
        match done {
            Ok(()) => {
                report(action, view, to_us);
                if self.scheduler.done(action, view.at_us, to_us) {
                    tracing::info!(?action, "a fold that had failed is done");
                }
            }
            Err(error) => {
                metrics::retried("fold");
                let first = self.scheduler.failed(action, view.at_us, to_us);
                log_failure(first, "fold", &error);
            }
        }
    }

    async fn act(&self, action: &Action, view: &View) -> Result<()> {
        let (store, ledger) = (&self.store, &view.ledger);
        match action {
            Action::FoldOpen(hours) => {
                for (hour, _) in hours {
                    let ver = version(view.at_us, ledger.now(*hour));
                    store.fold_open(*hour, ver).await?;
                    store.commit(Kind::Now, *hour, &plain(ver)).await?;
                }
                Ok(())
            }
            Action::FoldHour(hour) => {
                let ver = version(view.at_us, ledger.hour(*hour));
                store.fold_hour(*hour, ver).await?;
                store.commit(Kind::Hour, *hour, &plain(ver)).await
            }
            Action::FoldDay { day, parts } => {
                let ver = version(view.at_us, ledger.day(*day));
                store.fold_day(*day, parts, ver).await?;
                let parts = parts.clone();
                store.commit(Kind::Day, *day, &Fold { ver, parts }).await
            }
            Action::Publish(watermark_us) => store.publish(*watermark_us).await,
            Action::DropOpen => self.drop_open(view).await,
            Action::Sweep => self.sweep(view).await,
            Action::Wait { .. } => Ok(()),
        }
    }

    async fn drop_open(&self, view: &View) -> Result<()> {
        let stored = self.store.open_versions().await?;
        let committed = self.store.open_folds().await?;
        let versions = stored.iter().map(|(_, ver)| *ver).collect();
        let gone = garbage::open_gone(&view.ledger, view.at_us, &versions, &committed);
        self.store.drop_open(&stored, &gone).await
    }

    async fn sweep(&self, view: &View) -> Result<()> {
        let gone = |kind, version| garbage::is_gone(&view.ledger, view.at_us, kind, version);
        self.store.sweep(view.at_us, gone).await?;
        metrics::unknown_maps(self.store.unknown_maps().await?);
        Ok(())
    }
}

/// A version for an attempt that begins at `at_us`: unique, not later than that,
/// and newer than what it replaces even where a clock has gone back.
fn version(at_us: u64, replaces: Option<&Fold>) -> u64 {
    let before = (at_us & !RANDOM_BITS).saturating_sub(RANDOM_BITS + 1);
    let after = replaces.map_or(0, |fold| (fold.ver | RANDOM_BITS) + 1);
    let random = FrameId::new().0.as_u128() as u64;
    before.max(after) | (random & RANDOM_BITS)
}

fn plain(ver: u64) -> Fold {
    let parts = Vec::new();
    Fold { ver, parts }
}

fn report(action: &Action, view: &View, to_us: u64) {
    let kind = match action {
        Action::FoldOpen(_) => FoldKind::Open,
        Action::FoldHour(_) => FoldKind::Hour,
        Action::FoldDay { .. } => FoldKind::Day,
        Action::Publish(watermark_us) => {
            let behind_us = to_us.saturating_sub(*watermark_us);
            return metrics::folded_behind(Duration::from_micros(behind_us));
        }
        Action::DropOpen | Action::Sweep | Action::Wait { .. } => return,
    };
    let took_us = to_us.saturating_sub(view.at_us);
    metrics::folded(kind, Duration::from_micros(took_us));
}

/// Failures in a row are logged once.
fn log_failure(first: bool, what: &str, error: &clickhouse::error::Error) {
    if first {
        tracing::warn!(%error, what, "failed; trying again");
    }
}

async fn wait(next: Next, inserted: &mut watch::Receiver<Progress>, seen: u64) {
    let Next::Wait { pause, for_rows } = next else {
        return;
    };
    if for_rows {
        let new_rows = inserted.wait_for(|progress| progress.inserts != seen);
        // The board outlives the folder; an error would only mean to look now.
        drop(tokio::time::timeout(pause, new_rows).await);
    } else {
        tokio::time::sleep(pause).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_about_its_time_and_newer_than_what_it_replaces() {
        let replaced = |ver| Fold { ver, parts: vec![] };
        let ver = version(5_000_000, None);
        assert!((4_800_000..5_000_000).contains(&ver));
        assert!(
            version(5_000_000, Some(&replaced(ver))) > ver,
            "the same moment"
        );
        let after = version(1_000_000, Some(&replaced(ver)));
        assert!(after > ver, "a clock that went back");
    }
}
