//! What cannot become rows goes to a log of its own, with the reason, and
//! never stops a partition.
//!
//! A record is one line of JSON that says why and from where, then the bytes
//! as they were. Letters are durable before the batch that they came in; a
//! batch that is built again writes its letters again.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use serde_json::json;
use sluice_eventlog::{AppendError, EventLog, Offset, Partition, Record};
use sluice_schema::id::FrameId;
use tokio::sync::oneshot;

/// Why something is no row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The record is no frame, or its requests are malformed.
    MalformedFrame,
    /// The body is refused by this release's rules.
    RefusedBody,
    /// No project has this slug or UUID.
    UnknownProject,
    /// A request of another kind than the topic's.
    WrongKind,
}

impl Reason {
    /// Every reason, for metrics that must show zeros.
    pub const ALL: [Self; 4] = [
        Self::MalformedFrame,
        Self::RefusedBody,
        Self::UnknownProject,
        Self::WrongKind,
    ];

    /// As a metric label and in the record.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MalformedFrame => "malformed_frame",
            Self::RefusedBody => "refused_body",
            Self::UnknownProject => "unknown_project",
            Self::WrongKind => "wrong_kind",
        }
    }
}

/// Something that cannot become rows.
#[derive(Clone, Debug)]
pub struct DeadLetter {
    /// Why.
    pub reason: Reason,
    /// The same, for people.
    pub detail: String,
    /// Offset of the record that it came in.
    pub offset: Offset,
    /// The record, or the request's body.
    pub bytes: Bytes,
}

impl DeadLetter {
    fn encode(&self, source: &str, partition: Partition, with_bytes: bool) -> Bytes {
        let head = json!({
            "reason": self.reason.as_str(),
            "detail": self.detail,
            "source": source,
            "partition": partition,
            "offset": self.offset,
            "bytes": self.bytes.len(),
        });
        let mut out = BytesMut::from(head.to_string().as_bytes());
        out.put_u8(b'\n');
        if with_bytes {
            out.extend_from_slice(&self.bytes);
        }
        out.freeze()
    }
}

/// Where dead letters go.
#[derive(Clone)]
pub struct DeadLetterOffice {
    log: Arc<dyn EventLog>,
}

impl DeadLetterOffice {
    /// Over the log of dead letters.
    pub fn new(log: Arc<dyn EventLog>) -> Self {
        Self { log }
    }

    /// Makes a letter durable; one too large for the log is kept without its bytes.
    pub async fn post(
        &self,
        letter: &DeadLetter,
        source: &str,
        partition: Partition,
    ) -> Result<(), AppendError> {
        match self.append(letter.encode(source, partition, true)).await {
            Err(AppendError::TooLarge) => {
                self.append(letter.encode(source, partition, false)).await
            }
            answer => answer,
        }
    }

    async fn append(&self, bytes: Bytes) -> Result<(), AppendError> {
        let (done, answer) = oneshot::channel();
        let record = Record {
            id: FrameId::new(),
            partition: 0,
            bytes,
        };
        let completion = Box::new(move |result| {
            // Nobody waits any more: the worker was stopped.
            let _ = done.send(result);
        });
        self.log.append(record, completion);
        let unanswered = || Err(AppendError::Unknown("the log gave no answer".to_owned()));
        answer.await.unwrap_or_else(|_| unanswered()).map(|_| ())
    }
}
