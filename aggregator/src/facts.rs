//! What the requests of one log become: the part of the pipeline in which
//! health events, flag evaluations and manifest requests differ.
//!
//! What always holds: rows are a function of the records and of answers that
//! come out the same when a range is read again (docs/decisions/0011); what is
//! stored beside the rows may be stored again, and then changes nothing.

use bytes::Bytes;
use sluice_eventlog::Partition;
use sluice_schema::frame::ContentKind;
use sluice_schema::wire::{Refusal, Scratch};
use tokio_util::sync::CancellationToken;

use crate::batch::BatchId;
use crate::context::Context;
use crate::places::Origin;
use crate::retry::Stopped;
use crate::send::Job;

/// The rows that a partition's open batch has gathered, and what goes with them.
pub(crate) trait Facts: Default + Send + 'static {
    /// What the log's requests are.
    const CONTENT: ContentKind;
    /// Name of the log: begins its source and is a metric label.
    const LOG: &'static str;
    /// Group whose positions in the log are the aggregators'.
    const GROUP: &'static str;
    /// The raw table.
    const TABLE: &'static str;
    /// What the workers of a process share, for these facts alone.
    type Shared: Send + Sync + 'static;
    /// What is stored beside the rows of a batch.
    type Beside: Send + Sync + 'static;

    /// Adds the rows of a request's body, if its project is known; returns how
    /// many event indices the request takes in its frame.
    fn add(
        &mut self,
        body: &[u8],
        scratch: &mut Scratch,
        origin: Option<&Origin>,
    ) -> Result<u32, Refusal>;

    /// Number of rows.
    fn len(&self) -> usize;

    /// About how much memory all that was gathered takes.
    fn bytes(&self) -> usize;

    /// Earliest and latest receipt of the rows, in microseconds since 1970.
    fn received_us(&self) -> Option<(i64, i64)>;

    /// Makes the rows final, and gives what is to be stored beside them.
    async fn close(
        &mut self,
        context: &Context<Self>,
        stop: &CancellationToken,
    ) -> Result<Self::Beside, Stopped>;

    /// The block of the rows as the batch `id`.
    fn encode(&self, id: &BatchId) -> Bytes;

    /// Drops what was gathered.
    fn clear(&mut self);

    /// Stores what must be there before the rows are: nothing, for most.
    fn store_before(
        _context: &Context<Self>,
        _job: &Job<Self>,
        _stop: &CancellationToken,
    ) -> impl Future<Output = Result<(), Stopped>> + Send {
        async { Ok(()) }
    }

    /// Stores what must be there before the position is committed.
    fn store_after(
        _context: &Context<Self>,
        _job: &Job<Self>,
        _stop: &CancellationToken,
    ) -> impl Future<Output = Result<(), Stopped>> + Send {
        async { Ok(()) }
    }

    /// The batch is stored.
    fn acknowledged(&mut self, _beside: &Self::Beside) {}

    /// A partition was lost: forget what may not have been stored of it.
    fn revoked(_shared: &Self::Shared, _partition: Partition) {}
}
