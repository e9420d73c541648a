//! Requests of the manifest endpoint: their rows, and nothing beside them.

mod rows;

use bytes::Bytes;
use sluice_schema::frame::ContentKind;
use sluice_schema::wire::manifests::ManifestRequest;
use sluice_schema::wire::{Refusal, Scratch};
use tokio_util::sync::CancellationToken;

use self::rows::ManifestRows;
use crate::batch::BatchId;
use crate::context::Context;
use crate::facts::Facts;
use crate::places::Origin;
use crate::retry::Stopped;

/// The open batch of a partition of manifest requests.
#[derive(Default)]
pub(crate) struct Manifests {
    rows: ManifestRows,
}

impl Facts for Manifests {
    const CONTENT: ContentKind = ContentKind::Manifests;
    const LOG: &'static str = "manifests";
    const GROUP: &'static str = crate::MANIFESTS_GROUP;
    const TABLE: &'static str = "manifest_requests";
    type Shared = ();
    type Beside = ();

    fn add(
        &mut self,
        body: &[u8],
        _: &mut Scratch,
        origin: Option<&Origin>,
    ) -> Result<u32, Refusal> {
        let request = ManifestRequest::decode(body)?;
        if let Some(origin) = origin {
            self.rows.push(origin, &request);
        }
        Ok(1)
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

    async fn close(&mut self, _: &Context<Self>, _: &CancellationToken) -> Result<(), Stopped> {
        Ok(())
    }

    fn encode(&self, id: &BatchId) -> Bytes {
        self.rows.encode(id)
    }

    fn clear(&mut self) {
        self.rows.clear();
    }
}
