//! The log: durable, ordered per partition, read from any position.
//!
//! One trait, two backends. The record is the [`sluice_schema::frame`]; this
//! crate never looks inside one.

pub mod committer;
pub mod embedded;
#[cfg(feature = "kafka")]
pub mod kafka;
pub mod metrics;
pub mod spool;
pub mod topics;

use std::time::Duration;

use bytes::Bytes;
use sluice_schema::id::FrameId;
use thiserror::Error;

/// A partition's number, below 64: it has six bits in an event id.
pub type Partition = u32;
/// A record's position in its partition: opaque and increasing, with gaps allowed.
pub type Offset = u64;

/// One record to append.
#[derive(Clone, Debug)]
pub struct Record {
    /// Identity of the frame in `bytes`.
    pub id: FrameId,
    /// Where it goes. A replay goes where its original went.
    pub partition: Partition,
    /// The encoded frame.
    pub bytes: Bytes,
}

/// Where a record lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Its partition.
    pub partition: Partition,
    /// Its offset there.
    pub offset: Offset,
}

/// Why a record is not known to be durable.
#[derive(Debug, Error)]
pub enum AppendError {
    /// The queue or the disk is full. Nothing was stored.
    #[error("the log is full, retry after {retry_after:?}")]
    Busy {
        /// When a retry makes sense.
        retry_after: Duration,
    },
    /// No record of this size can ever be stored.
    #[error("the record is larger than the log accepts")]
    TooLarge,
    /// The log refuses for a reason that a retry does not change.
    #[error("the log refuses the record: {0}")]
    Rejected(String),
    /// A time-out, a lost broker, a failed sync: it may or may not be stored.
    #[error("the fate of the record is unknown: {0}")]
    Unknown(String),
}

/// A failed read, seek or trim.
#[derive(Debug, Error)]
pub enum LogError {
    /// Worth another try.
    #[error("the log is unavailable: {0}")]
    Unavailable(String),
    /// The log is damaged or refuses to serve; a restart or an operator is needed.
    #[error("the log failed: {0}")]
    Fatal(String),
}

/// A failed commit of a position.
#[derive(Debug, Error)]
pub enum CommitError {
    /// The partition belongs to another reader now: drop what was read of it.
    #[error("the partition was lost to another reader")]
    Lost,
    /// Commit again after the next poll.
    #[error("commit again: {0}")]
    Retry(String),
    /// The reader is dead and must be made anew.
    #[error("the reader failed: {0}")]
    Fatal(String),
}

/// What a log can say of its own state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// Appends are durable.
    Ready,
    /// Appends fail, or wait; the text says why.
    NotReady(String),
}

/// A record that was read.
#[derive(Clone, Debug)]
pub struct Stored {
    /// Its offset.
    pub offset: Offset,
    /// The encoded frame.
    pub bytes: Bytes,
}

/// What a poll of a [`LogReader`] found.
#[derive(Debug)]
pub enum ReadEvent {
    /// Partitions are this reader's from now on, each at its committed position.
    Assigned(Vec<(Partition, Offset)>),
    /// Partitions are this reader's no longer. Drop their buffers, and where
    /// `lost`, do not commit what was read of them.
    Revoked {
        /// Which.
        partitions: Vec<Partition>,
        /// Another reader may have them already.
        lost: bool,
    },
    /// Consecutive records of one partition; never empty.
    Records {
        /// Of which partition.
        partition: Partition,
        /// In offset order.
        records: Vec<Stored>,
        /// The position after the last of them.
        next: Offset,
    },
    /// Retention overtook the position: `from..to` can no longer be read.
    Gap {
        /// Of which partition.
        partition: Partition,
        /// First missing offset.
        from: Offset,
        /// First offset that is there.
        to: Offset,
    },
    /// Nothing new within the wait.
    Idle,
}

/// Called exactly once, from any thread, when the fate of a record is known.
/// It must not block.
pub type Completion = Box<dyn FnOnce(Result<Appended, AppendError>) + Send>;

/// A durable log of frames.
pub trait EventLog: Send + Sync + 'static {
    /// Number of partitions, at least 1 and at most 64.
    fn partitions(&self) -> u32;

    /// Appends a record and calls `done` when it is durable, or is known not to
    /// be. Records of one partition are stored in the order of the calls. A log
    /// on local disk may finish the work, and call `done`, before it returns.
    fn append(&self, record: Record, done: Completion);

    /// A reader of `group`. Positions belong to the group.
    fn reader(&self, group: &str) -> Result<Box<dyn LogReader>, LogError>;

    /// Records of `partition` below `upto` may go, as far as every group has
    /// committed past them. Blocks.
    fn trim(&self, partition: Partition, upto: Offset) -> Result<(), LogError>;

    /// Whether appends can be expected to work.
    fn health(&self) -> Health;
}

/// Reads a log in one thread; every call blocks.
pub trait LogReader: Send {
    /// Waits up to `max_wait` for the next event; at most about `max_bytes` of records.
    fn poll(&mut self, max_bytes: usize, max_wait: Duration) -> Result<ReadEvent, LogError>;

    /// Reads on from `at`.
    fn seek(&mut self, partition: Partition, at: Offset) -> Result<(), LogError>;

    /// Stores positions: the next offset to read, per partition. Durable on return.
    fn commit(&mut self, next: &[(Partition, Offset)]) -> Result<(), CommitError>;

    /// Records not read yet, per assigned partition.
    fn lag(&self) -> Vec<(Partition, u64)>;

    /// A name of the log that changes when it is created anew: part of every
    /// insert's deduplication token, so that offsets of another log cannot clash.
    fn incarnation(&self) -> String;
}
