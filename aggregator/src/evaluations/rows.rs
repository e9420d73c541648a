//! The rows of a batch of flag evaluations, column by column.
//!
//! What always holds: but for keys and values over their caps, a row is a
//! function of the entry, its request and its place in the log alone, so that a
//! range that is read again becomes the same rows.

use std::collections::BTreeSet;

use bytes::Bytes;
use sluice_schema::wire::evaluations::EvaluationBatch;
use sluice_schema::wire::flags::stored_value;

use super::caps::{Instead, OTHER_FLAG, OTHER_VALUE, Over};
use crate::batch::BatchId;
use crate::native::{BlockEncoder, Key, LowCardinality};
use crate::places::{self, Origin, Places};
use crate::rows::ProjectHour;

const COLUMNS: usize = places::COLUMNS + 5;
/// Bytes of a row's numbers, and of its share in the dictionaries' indices.
const FIXED_ROW_BYTES: usize = 100;
/// What devices report of their own evaluations (telemetry.md §3).
const SOURCE: &str = "sdk";

/// A flag key and a value.
pub type Pair = (Key, Key);

/// Rows of the raw table `flag_evaluations`, gathered column by column.
#[derive(Default)]
pub struct EvaluationRows {
    places: Places,
    flag_key: LowCardinality,
    value: LowCardinality,
    channel: LowCardinality,
    count: Vec<u64>,
}

impl EvaluationRows {
    /// Number of rows.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// About how long the block will be.
    pub fn bytes(&self) -> usize {
        let texts = [&self.flag_key, &self.value, &self.channel];
        texts.iter().map(|column| column.bytes()).sum::<usize>() + FIXED_ROW_BYTES * self.len()
    }

    /// Earliest and latest receipt, in microseconds since 1970.
    pub fn received_us(&self) -> Option<(i64, i64)> {
        self.places.received_us()
    }

    /// Appends a row for each kept entry of a report.
    pub fn push(&mut self, origin: &Origin, batch: &EvaluationBatch<'_>) {
        for (index, entry) in (origin.first_index..).zip(batch.evaluations()) {
            self.places.push(origin, index);
            self.count.push(u64::from(entry.count()));
            let texts = [
                (&mut self.flag_key, entry.flag_key()),
                (&mut self.value, stored_value(entry.variation_json()).into()),
                (&mut self.channel, entry.channel()),
            ];
            for (column, text) in texts {
                let key = column.key(&text);
                column.push(key);
            }
        }
    }

    /// Each flag key with each of its values, by hour.
    pub fn pairs(&self) -> BTreeSet<(ProjectHour, Pair)> {
        let rows = 0..self.len();
        rows.map(|row| (self.slot(row), self.pair(row))).collect()
    }

    /// The texts of a pair.
    pub fn texts(&self, (flag, value): Pair) -> (&str, &str) {
        (self.flag_key.text(flag), self.value.text(value))
    }

    /// Replaces what is over its cap.
    pub fn apply(&mut self, over: &Over) {
        if over.is_empty() {
            return;
        }
        let (other_flag, other_value) =
            (self.flag_key.key(OTHER_FLAG), self.value.key(OTHER_VALUE));
        for row in 0..self.len() {
            let pair = self.pair(row);
            let instead = over.get(&self.slot(row)).and_then(|over| over.get(&pair));
            let Some(instead) = instead else { continue };
            self.value.rows_mut()[row] = other_value;
            if *instead == Instead::OtherFlag {
                self.flag_key.rows_mut()[row] = other_flag;
            }
        }
    }

    fn slot(&self, row: usize) -> ProjectHour {
        let (project, received_at_us) = self.places.of(row);
        ProjectHour::of(project, received_at_us)
    }

    fn pair(&self, row: usize) -> Pair {
        (self.flag_key.rows()[row], self.value.rows()[row])
    }

    /// The block of these rows as the batch `id`.
    pub fn encode(&self, id: &BatchId) -> Bytes {
        let mut block = BlockEncoder::new(COLUMNS, self.len(), self.bytes());
        self.places.encode(&mut block, id);
        block.low_cardinality("flag_key", &self.flag_key);
        block.low_cardinality("value", &self.value);
        block.low_cardinality("channel", &self.channel);
        block.constant_text("source", SOURCE);
        block.fixed("count", "UInt64", &self.count);
        block.finish()
    }

    /// Drops all rows and keeps the memory.
    pub fn clear(&mut self) {
        self.places.clear();
        self.count.clear();
        let texts = [&mut self.flag_key, &mut self.value, &mut self.channel];
        texts.into_iter().for_each(LowCardinality::clear);
    }
}
