//! Health events: their rows, the dictionary of flag maps before them, the
//! ledger of late hours after them.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use sluice_eventlog::Partition;
use sluice_schema::frame::ContentKind;
use sluice_schema::wire::{Refusal, Scratch, health};
use tokio_util::sync::CancellationToken;

use crate::batch::BatchId;
use crate::caps::Caps;
use crate::context::Context;
use crate::facts::Facts;
use crate::flag_maps::FlagMaps;
use crate::metrics;
use crate::places::Origin;
use crate::retry::{Stopped, until_done};
use crate::rows::{HealthRows, MICROS_PER_HOUR, NewMap, ProjectHour, RATES_KEPT_US, Seen};
use crate::send::{Job, now_us};

/// The open batch of a partition of health events.
#[derive(Default)]
pub(crate) struct Health {
    pub(crate) rows: HealthRows,
    flags: FlagMaps,
}

/// What goes with a batch of health events.
pub(crate) struct Beside {
    new_maps: Vec<NewMap>,
    /// Hours since 1970 that have rows.
    hours: Vec<u32>,
    /// Rows whose hours are no longer kept apart from raw.
    past_rates: usize,
}

impl Facts for Health {
    const CONTENT: ContentKind = ContentKind::Health;
    const LOG: &'static str = "health";
    const GROUP: &'static str = crate::GROUP;
    const TABLE: &'static str = "health_events";
    type Shared = Mutex<Caps>;
    type Beside = Beside;

    fn add(
        &mut self,
        body: &[u8],
        scratch: &mut Scratch,
        origin: Option<&Origin>,
    ) -> Result<u32, Refusal> {
        let batch = health::decode(body, scratch)?;
        if let Some(origin) = origin {
            self.rows.push(origin, &batch, &mut self.flags);
        }
        Ok(batch.kept())
    }

    fn len(&self) -> usize {
        self.rows.len()
    }

    fn bytes(&self) -> usize {
        self.rows.bytes()
    }

    fn received_us(&self) -> Option<(i64, i64)> {
        self.rows.received_us()
    }

    async fn close(
        &mut self,
        context: &Context<Self>,
        stop: &CancellationToken,
    ) -> Result<Beside, Stopped> {
        let over = rule(context, &self.rows, stop).await?;
        self.rows.apply(&over);
        let mut hours: Vec<u32> = self.rows.hours().keys().map(|slot| slot.hour).collect();
        hours.sort_unstable();
        hours.dedup();
        Ok(Beside {
            new_maps: self.rows.new_maps(&over),
            hours,
            past_rates: self.rows.received_before(now_us() - RATES_KEPT_US),
        })
    }

    fn encode(&self, id: &BatchId) -> Bytes {
        self.rows.encode(id)
    }

    fn clear(&mut self) {
        self.rows.clear();
    }

    async fn store_before(
        context: &Context<Self>,
        job: &Job<Self>,
        stop: &CancellationToken,
    ) -> Result<(), Stopped> {
        let new_maps = &job.beside.new_maps;
        if new_maps.is_empty() {
            return Ok(());
        }
        until_done("flag maps", stop, || context.store.put_flag_maps(new_maps)).await
    }

    /// Hours that are over may be folded already: the ledger says to fold them again.
    async fn store_after(
        context: &Context<Self>,
        job: &Job<Self>,
        stop: &CancellationToken,
    ) -> Result<(), Stopped> {
        metrics::past_rates(job.beside.past_rates);
        let now_us = now_us();
        let current = now_us.div_euclid(MICROS_PER_HOUR) as u32;
        let hours = job.beside.hours.iter().copied();
        let late: Vec<u32> = hours.filter(|hour| *hour < current).collect();
        if late.is_empty() {
            return Ok(());
        }
        metrics::late_hours(late.len());
        until_done("late hours", stop, || {
            context.store.mark_late(&late, now_us)
        })
        .await
    }

    fn acknowledged(&mut self, beside: &Beside) {
        self.flags.note_stored(&beside.new_maps);
    }

    fn revoked(shared: &Mutex<Caps>, _: Partition) {
        lock(shared).forget();
    }
}

fn lock(caps: &Mutex<Caps>) -> MutexGuard<'_, Caps> {
    // The register is whole between any two of its calls.
    caps.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What of a batch is over the caps of its hours.
async fn rule(
    context: &Context<Health>,
    rows: &HealthRows,
    stop: &CancellationToken,
) -> Result<BTreeMap<ProjectHour, Seen>, Stopped> {
    let unknown = lock(&context.shared).unknown(rows);
    let learnt = until_done("caps", stop, || context.store.admitted(&unknown)).await?;
    let mut caps = lock(&context.shared);
    for (slot, admitted) in learnt {
        caps.learn(slot, admitted);
    }
    let over = caps.rule(rows);
    let values = over.values().map(|seen| seen.names.len() + seen.maps.len());
    metrics::over_cap(values.sum());
    Ok(over)
}
