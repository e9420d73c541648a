//! The rows of a batch of manifest requests, column by column.
//!
//! What always holds: a row is a function of the request and its place in the
//! log alone, so that a range that is read again becomes the same rows.

use bytes::Bytes;
use sluice_schema::wire::manifests::ManifestRequest;

use crate::batch::BatchId;
use crate::native::{BlockEncoder, LowCardinality, Strings};
use crate::places::{self, Origin, Places};

const COLUMNS: usize = places::COLUMNS + 11;
/// Bytes of a row's numbers, and of its share in the dictionaries' indices.
const FIXED_ROW_BYTES: usize = 150;

/// Rows of the raw table `manifest_requests`, gathered column by column.
#[derive(Default)]
pub(super) struct ManifestRows {
    places: Places,
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
}

impl ManifestRows {
    /// Number of rows.
    pub(super) fn len(&self) -> usize {
        self.places.len()
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
        self.places.received_us()
    }

    /// Appends the row of a request.
    pub(super) fn push(&mut self, origin: &Origin, request: &ManifestRequest<'_>) {
        self.places.push(origin, origin.first_index);
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
    }

    /// The block of these rows as the batch `id`.
    pub(super) fn encode(&self, id: &BatchId) -> Bytes {
        let mut block = BlockEncoder::new(COLUMNS, self.len(), self.bytes());
        self.places.encode(&mut block, id);
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
        block.finish()
    }

    /// Drops all rows and keeps the memory.
    pub(super) fn clear(&mut self) {
        self.places.clear();
        let numbers = [&mut self.device, &mut self.client];
        numbers.into_iter().for_each(Vec::clear);
        let updates = [&mut self.served, &mut self.current];
        updates.into_iter().for_each(Vec::clear);
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
