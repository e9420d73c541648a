//! The rows of a batch of flag evaluations, column by column.
//!
//! What always holds: a row is a function of the entry, its request and its
//! place in the log alone, so that a range that is read again becomes the same
//! rows.

use bytes::Bytes;
use sluice_schema::wire::evaluations::EvaluationBatch;
use sluice_schema::wire::flags::stored_value;

use crate::batch::BatchId;
use crate::native::{BlockEncoder, LowCardinality};
use crate::rows::Origin;

const COLUMNS: usize = 14;
/// Bytes of a row's numbers, and of its share in the dictionaries' indices.
const FIXED_ROW_BYTES: usize = 100;
/// What devices report of their own evaluations (telemetry.md §3).
const SOURCE: &str = "sdk";

/// Rows of the raw table `flag_evaluations`, gathered column by column.
#[derive(Default)]
pub struct EvaluationRows {
    received_at_us: Vec<i64>,
    project_id: Vec<u64>,
    flag_key: LowCardinality,
    value: LowCardinality,
    channel: LowCardinality,
    count: Vec<u64>,
    frame_id: Vec<u128>,
    offset: Vec<u64>,
    index: Vec<u16>,
}

impl EvaluationRows {
    /// Number of rows.
    pub fn len(&self) -> usize {
        self.received_at_us.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.received_at_us.is_empty()
    }

    /// About how long the block will be.
    pub fn bytes(&self) -> usize {
        let texts = [&self.flag_key, &self.value, &self.channel];
        texts.iter().map(|column| column.bytes()).sum::<usize>() + FIXED_ROW_BYTES * self.len()
    }

    /// Earliest and latest receipt, in microseconds since 1970.
    pub fn received_us(&self) -> Option<(i64, i64)> {
        let (first, last) = (
            self.received_at_us.iter().min()?,
            self.received_at_us.iter().max()?,
        );
        Some((*first, *last))
    }

    /// Appends a row for each kept entry of a report.
    pub fn push(&mut self, origin: &Origin, batch: &EvaluationBatch<'_>) {
        for (index, entry) in (origin.first_index..).zip(batch.evaluations()) {
            self.received_at_us.push(origin.received_at_us);
            self.project_id.push(origin.project.0 as u64);
            self.frame_id.push(origin.frame.0.as_u128());
            self.offset.push(origin.offset);
            self.index.push(index);
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

    /// The block of these rows as the batch `id`.
    pub fn encode(&self, id: &BatchId) -> Bytes {
        let mut block = BlockEncoder::new(COLUMNS, self.len(), self.bytes());
        block.fixed("received_at", "DateTime64(6, 'UTC')", &self.received_at_us);
        block.fixed("project_id", "UInt64", &self.project_id);
        block.low_cardinality("flag_key", &self.flag_key);
        block.low_cardinality("value", &self.value);
        block.low_cardinality("channel", &self.channel);
        block.constant_text("source", SOURCE);
        block.fixed("count", "UInt64", &self.count);
        block.uuids("frame_id", &self.frame_id);
        block.constant_text("src_topic", &id.source);
        block.constant("src_partition", "UInt16", id.partition as u16);
        block.fixed("src_offset", "UInt64", &self.offset);
        block.fixed("src_index", "UInt16", &self.index);
        block.constant("batch_first", "UInt64", id.first);
        block.constant("batch_last", "UInt64", id.last);
        block.finish()
    }

    /// Drops all rows and keeps the memory.
    pub fn clear(&mut self) {
        self.received_at_us.clear();
        self.project_id.clear();
        self.count.clear();
        self.frame_id.clear();
        self.offset.clear();
        self.index.clear();
        let texts = [&mut self.flag_key, &mut self.value, &mut self.channel];
        texts.into_iter().for_each(LowCardinality::clear);
    }
}
