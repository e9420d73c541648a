//! Counts what bulk answers evaluated (telemetry.md §3), behind the answers.
//!
//! Counts add up in memory and are inserted every few seconds as one small
//! block into the raw table of evaluations, and count once (`insights::blocks`).
//! What is counted meanwhile waits for the next one. A process that is killed loses
//! the counts of its last few seconds (docs/decisions/0082); one that is told
//! to stop stores them first.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use clickhouse::Client;
use clickhouse::error::Result;
use foldhash::fast::RandomState;
use metrics::counter;
use serde_json::json;
use sluice_schema::id::ProjectId;
use sluice_schema::wire::flags::stored_value;

use crate::flags::eval::Outcome;
use crate::insights::blocks::{Series, cut, instant, keep_storing};

/// Different counts that wait; beyond it channels are no longer told apart.
const MAX_SLOTS: usize = 20_000;
/// Longest channel, in bytes (telemetry.md §2.6).
const MAX_CHANNEL_BYTES: usize = 256;
const MICROS_PER_HOUR: i64 = 3_600_000_000;
const INSERT: &str = "INSERT INTO flag_evaluations FORMAT JSONEachRow";
const UNCOUNTED: &str = "sluice_api_bulk_evaluations_uncounted_total";

/// The counts of a process.
pub(crate) struct BulkCounts {
    waiting: Mutex<Waiting>,
    /// Held while a block is sent.
    series: tokio::sync::Mutex<Series>,
}

/// An hour of a project in a channel.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Answered {
    project: ProjectId,
    /// Since 1970.
    hour: i64,
    channel: Box<str>,
}

/// By flag and variation, whose ids are ours: nobody can make them collide.
type Slots = HashMap<(i64, Option<i64>), Slot, RandomState>;

#[derive(Default)]
struct Waiting {
    slots: HashMap<Answered, Slots>,
    size: usize,
}

struct Slot {
    flag_key: Box<str>,
    /// As stored.
    value: Box<str>,
    count: u64,
    /// In microseconds since 1970.
    last_us: i64,
}

impl Default for BulkCounts {
    fn default() -> Self {
        Self {
            waiting: Mutex::default(),
            series: tokio::sync::Mutex::new(Series::new("bulk", INSERT)),
        }
    }
}

impl BulkCounts {
    /// Counts what one answer holds: of each flag its id, its key and its outcome.
    pub(crate) fn add<'o>(
        &self,
        project: ProjectId,
        channel: Option<&str>,
        at: DateTime<Utc>,
        outcomes: impl IntoIterator<Item = (i64, &'o str, &'o Outcome)>,
    ) {
        let at_us = at.timestamp_micros();
        // Each statement leaves the counts whole.
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let channel = cut(channel.unwrap_or_default(), MAX_CHANNEL_BYTES);
        waiting.add(project, &channel, at_us, outcomes);
    }

    /// Stores the counts every few seconds, for ever.
    pub(crate) async fn keep_storing(&self, client: &Client) {
        keep_storing("counts of bulk evaluations", || self.store(client)).await;
    }

    /// Stores what is counted so far.
    pub(crate) async fn store(&self, client: &Client) -> Result<()> {
        let mut series = self.series.lock().await;
        series.send(client).await?;
        let waiting = {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *waiting)
        };
        if waiting.size == 0 {
            return Ok(());
        }
        series.push(|source, number| waiting.encode(source, number));
        series.send(client).await
    }
}

impl Waiting {
    fn add<'o>(
        &mut self,
        project: ProjectId,
        channel: &str,
        at_us: i64,
        outcomes: impl IntoIterator<Item = (i64, &'o str, &'o Outcome)>,
    ) {
        let mut outcomes = outcomes.into_iter().peekable();
        if outcomes.peek().is_none() {
            return;
        }
        let mut answered = Answered {
            project,
            hour: at_us.div_euclid(MICROS_PER_HOUR),
            channel: channel.into(),
        };
        if self.size >= MAX_SLOTS && !self.slots.contains_key(&answered) {
            answered.channel = "".into();
        }
        let flags = self.slots.entry(answered).or_default();
        for (flag, key, outcome) in outcomes {
            let slot = (flag, outcome.variation_id);
            if let Some(known) = flags.get_mut(&slot) {
                known.count += 1;
                known.last_us = known.last_us.max(at_us);
            } else if self.size < 2 * MAX_SLOTS {
                self.size += 1;
                flags.insert(slot, Slot::new(key, outcome, at_us));
            } else {
                counter!(UNCOUNTED).increment(1);
            }
        }
    }

    fn encode(&self, source: &str, number: u64) -> Bytes {
        let mut lines = String::new();
        let slots = self
            .slots
            .iter()
            .flat_map(|(answered, flags)| flags.values().map(move |slot| (answered, slot)));
        for (index, (answered, slot)) in slots.enumerate() {
            let row = json!({
                "received_at": instant(slot.last_us),
                "project_id": answered.project.0,
                "flag_key": slot.flag_key,
                "value": slot.value,
                "channel": answered.channel,
                "source": "bulk",
                "count": slot.count,
                "src_topic": source,
                "src_offset": number,
                "src_index": index,
                "batch_first": number,
                "batch_last": number,
            });
            // Writing to a string does not fail.
            let _ = writeln!(lines, "{row}");
        }
        lines.into()
    }
}

impl Slot {
    fn new(key: &str, outcome: &Outcome, at_us: i64) -> Self {
        Self {
            flag_key: key.into(),
            value: stored_value(outcome.value.to_string()).into(),
            count: 1,
            last_us: at_us,
        }
    }
}

#[cfg(test)]
pub(in crate::insights) mod tests;
