//! The rows of a batch of manifest requests, column by column.
//!
//! What always holds: a row is a function of the request and its place in the
//! log alone, so that a range that is read again becomes the same rows.

use bytes::Bytes;
use sluice_schema::wire::manifests::ManifestRequest;

use crate::batch::BatchId;
use crate::native::{BlockEncoder, LowCardinality, Strings};
use crate::rows::Origin;

const COLUMNS: usize = 20;
/// Bytes of a row's numbers, and of its share in the dictionaries' indices.
const FIXED_ROW_BYTES: usize = 150;

/// Rows of the raw table `manifest_requests`, gathered column by column.
#[derive(Default)]
pub(super) struct ManifestRows {
    received_at_us: Vec<i64>,
    project_id: Vec<u64>,
    device_id: Strings,
    client_id: Strings,
    device: Vec<u64>,
    client: Vec<u64>,
    platform: LowCardinality,
    runtime_version: LowCardinality,
    channel: LowCardinality,
    served: Vec<u128>,
    current: Vec<u128>,
    fatal_error: Strings,
    failed: Strings,
    frame_id: Vec<u128>,
    offset: Vec<u64>,
    index: Vec<u16>,
}

impl ManifestRows {
    /// Number of rows.
    pub(super) fn len(&self) -> usize {
        self.received_at_us.len()
    }

    /// About how long the block will be.
    pub(super) fn bytes(&self) -> usize {
        let texts = [
            &self.device_id,
            &self.client_id,
            &self.fatal_error,
            &self.failed,
        ];
        texts.iter().map(|column| column.bytes()).sum::<usize>() + FIXED_ROW_BYTES * self.len()
    }

    /// Earliest and latest receipt, in microseconds since 1970.
    pub(super) fn received_us(&self) -> Option<(i64, i64)> {
        let received = self.received_at_us.iter().copied();
        Some((received.clone().min()?, received.max()?))
    }

    /// Appends the row of a request.
    pub(super) fn push(&mut self, origin: &Origin, request: &ManifestRequest<'_>) {
        self.received_at_us.push(origin.received_at_us);
        self.project_id.push(origin.project.0 as u64);
        self.device_id.push(request.device_id);
        self.client_id.push(request.client_id);
        self.device.push(request.device());
        self.client.push(request.client());
        for (column, text) in [
            (&mut self.platform, request.platform),
            (&mut self.runtime_version, request.runtime_version),
            (&mut self.channel, request.channel),
        ] {
            let key = column.key(text);
            column.push(key);
        }
        self.served
            .push(request.served.unwrap_or_default().as_u128());
        self.current
            .push(request.current.unwrap_or_default().as_u128());
        self.fatal_error.push(request.fatal_error);
        let failed: Vec<String> = request.failed.iter().map(ToString::to_string).collect();
        self.failed.push(&failed.join(","));
        self.frame_id.push(origin.frame.0.as_u128());
        self.offset.push(origin.offset);
        self.index.push(origin.first_index);
    }

    /// The block of these rows as the batch `id`.
    pub(super) fn encode(&self, id: &BatchId) -> Bytes {
        let mut block = BlockEncoder::new(COLUMNS, self.len(), self.bytes());
        block.fixed("received_at", "DateTime64(6, 'UTC')", &self.received_at_us);
        block.fixed("project_id", "UInt64", &self.project_id);
        block.strings("device_id", &self.device_id);
        block.strings("client_id", &self.client_id);
        block.fixed("device", "UInt64", &self.device);
        block.fixed("client", "UInt64", &self.client);
        block.low_cardinality("platform", &self.platform);
        block.low_cardinality("runtime_version", &self.runtime_version);
        block.low_cardinality("channel", &self.channel);
        block.uuids("served_update", &self.served);
        block.uuids("current_update", &self.current);
        block.strings("fatal_error", &self.fatal_error);
        block.strings("failed_updates", &self.failed);
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
    pub(super) fn clear(&mut self) {
        self.received_at_us.clear();
        let numbers = [&mut self.project_id, &mut self.device, &mut self.client];
        numbers.into_iter().for_each(Vec::clear);
        let updates = [&mut self.served, &mut self.current, &mut self.frame_id];
        updates.into_iter().for_each(Vec::clear);
        self.offset.clear();
        self.index.clear();
        let texts = [
            &mut self.device_id,
            &mut self.client_id,
            &mut self.fatal_error,
            &mut self.failed,
        ];
        texts.into_iter().for_each(Strings::clear);
        let dictionaries = [
            &mut self.platform,
            &mut self.runtime_version,
            &mut self.channel,
        ];
        dictionaries.into_iter().for_each(LowCardinality::clear);
    }
}
