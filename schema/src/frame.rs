//! The frame: the unit of both logs and of the spool.
//!
//! A frame holds the requests that waited while the previous frame was being
//! made durable. It is one log record; its acknowledgement releases all of its
//! requests. All integers are little-endian.
//!
//! ```text
//! header, 32 bytes, never compressed
//!   0  version      u8    1
//!   1  codec        u8    0 stored, 1 zstd
//!   2  flags        u8    bit 0: replay
//!   3  reserved     u8    0
//!   4  frame id     16 B  UUID v7
//!  20  raw bytes    u32   length of the body after inflation
//!  24  requests     u32
//!  28  events       u32   sum over the requests, at most 32,768
//! body, `requests` times
//!   kind            u8    see `ContentKind`
//!   project         u8    0: id follows as i64; 1: u16 length and the slug as sent
//!   received at     i64   microseconds since 1970, stamped once at the edge
//!   payload         u32   length, then the bytes as the device sent them
//! ```
//!
//! What always holds: encoding and decoding are inverse; decoding never
//! panics and never inflates past [`MAX_INFLATED_BYTES`], whatever the input.

use bytes::{Bytes, BytesMut};
use thiserror::Error;
use uuid::Uuid;

use crate::id::{FrameId, ProjectId};

/// A frame is cut when its body would grow past this, unless it holds a single request.
pub const MAX_FRAME_BYTES: usize = 512 * 1024;
/// A frame is cut at this many requests.
pub const MAX_FRAME_REQUESTS: u32 = 1_000;
/// A frame is cut at this many events: an event's index must fit the 15 bits it has in an event id.
pub const MAX_FRAME_EVENTS: u32 = 32_768;
/// Upper bound of an inflated body: one request of the largest accepted body, with room to spare.
pub const MAX_INFLATED_BYTES: usize = 4 * 1024 * 1024;

const VERSION: u8 = 1;
const HEADER_BYTES: usize = 32;
const FLAGS_AT: usize = 2;
const REPLAY: u8 = 1;
const CODEC_STORED: u8 = 0;
const CODEC_ZSTD: u8 = 1;
const ZSTD_LEVEL: i32 = 1;

/// What a request's payload is, and so which table it ends in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ContentKind {
    /// Body of `POST /health-metrics` (telemetry.md §2).
    Health = 1,
    /// Body of `POST /flag-evaluations` (telemetry.md §3).
    Evaluations = 2,
    /// A request of the manifest endpoint and its answer, see [`crate::wire::manifests`].
    Manifests = 3,
}

impl ContentKind {
    fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Health),
            2 => Some(Self::Evaluations),
            3 => Some(Self::Manifests),
            _ => None,
        }
    }
}

/// The project of a request, as far as the edge could tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProjectRef<'a> {
    /// Resolved by the edge's directory.
    Id(ProjectId),
    /// The directory was unreachable and did not know it: resolved downstream.
    Slug(&'a str),
}

/// One accepted request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// Whose it is.
    pub project: ProjectRef<'a>,
    /// When the edge accepted it, in microseconds since 1970.
    pub received_at_us: i64,
    /// What the payload is.
    pub kind: ContentKind,
    /// The body, after `Content-Encoding` was undone.
    pub payload: &'a [u8],
}

/// The uncompressed head of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// Given once at the cut.
    pub id: FrameId,
    /// The frame may be in the log already: check its id before counting it.
    pub replay: bool,
    /// Length of the inflated body.
    pub raw_bytes: u32,
    /// Number of requests.
    pub requests: u32,
    /// Number of events over all requests.
    pub events: u32,
}

/// Why bytes are not a frame. Permanent: such a record goes to the dead letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FrameError {
    /// Shorter than its own lengths say.
    #[error("frame is cut short")]
    Truncated,
    /// Written by a newer release.
    #[error("unknown frame version {0}")]
    Version(u8),
    /// Neither stored nor zstd.
    #[error("unknown frame codec {0}")]
    Codec(u8),
    /// Says it inflates past [`MAX_INFLATED_BYTES`].
    #[error("frame inflates to {0} bytes, past the limit")]
    TooLarge(u32),
    /// Decompression failed or gave another length than the header says.
    #[error("frame body does not inflate to what its header says")]
    Inflate,
    /// A request's kind, project tag or slug is not one.
    #[error("frame holds a malformed request")]
    Request,
    /// Fewer or more requests than the header says.
    #[error("frame holds another number of requests than its header says")]
    Count,
}

/// How full a frame is: the one place that knows when a frame closes.
#[derive(Clone, Copy, Debug, Default)]
pub struct FrameSize {
    bytes: usize,
    requests: u32,
    events: u32,
}

impl FrameSize {
    /// Counts a request of `payload_bytes` and `events` in, or says that it
    /// must wait for the next frame. An empty frame takes any request.
    pub fn add(&mut self, payload_bytes: usize, events: u32) -> bool {
        let bytes = self.bytes + payload_bytes;
        let events = self.events.saturating_add(events);
        let fits = self.requests < MAX_FRAME_REQUESTS
            && events <= MAX_FRAME_EVENTS
            && bytes <= MAX_FRAME_BYTES;
        if fits || self.requests == 0 {
            *self = Self {
                bytes,
                requests: self.requests + 1,
                events,
            };
            return true;
        }
        false
    }
}

/// Collects requests and cuts them into a frame. Reusable: buffers are kept.
/// What may join a frame is for [`FrameSize`] to say.
pub struct FrameBuilder {
    body: Vec<u8>,
    requests: u32,
    events: u32,
    compressor: Option<zstd::bulk::Compressor<'static>>,
}

impl Default for FrameBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl FrameBuilder {
    /// An empty builder that compresses with zstd level 1.
    pub fn new() -> Self {
        Self {
            body: Vec::with_capacity(MAX_FRAME_BYTES),
            requests: 0,
            events: 0,
            compressor: zstd::bulk::Compressor::new(ZSTD_LEVEL).ok(),
        }
    }

    /// Whether nothing has been pushed since the last cut.
    pub fn is_empty(&self) -> bool {
        self.requests == 0
    }

    /// Number of requests pushed since the last cut.
    pub fn requests(&self) -> u32 {
        self.requests
    }

    /// Appends a request; `events` is the number of event indices it takes.
    pub fn push(&mut self, request: &Request<'_>, events: u32) {
        self.body.push(request.kind as u8);
        match request.project {
            ProjectRef::Id(ProjectId(id)) => {
                self.body.push(0);
                self.body.extend_from_slice(&id.to_le_bytes());
            }
            ProjectRef::Slug(slug) => {
                let bytes = &slug.as_bytes()[..slug.len().min(usize::from(u16::MAX))];
                self.body.push(1);
                self.body
                    .extend_from_slice(&(bytes.len() as u16).to_le_bytes());
                self.body.extend_from_slice(bytes);
            }
        }
        self.body
            .extend_from_slice(&request.received_at_us.to_le_bytes());
        self.body
            .extend_from_slice(&(request.payload.len() as u32).to_le_bytes());
        self.body.extend_from_slice(request.payload);
        self.requests += 1;
        self.events = self.events.saturating_add(events);
    }

    /// Cuts the frame and leaves the builder empty.
    pub fn finish(&mut self, id: FrameId) -> Bytes {
        let compressed = self
            .compressor
            .as_mut()
            .and_then(|c| c.compress(&self.body).ok());
        let (codec, body) = match &compressed {
            Some(bytes) if bytes.len() < self.body.len() => (CODEC_ZSTD, bytes.as_slice()),
            _ => (CODEC_STORED, self.body.as_slice()),
        };
        let mut out = BytesMut::with_capacity(HEADER_BYTES + body.len());
        out.extend_from_slice(&[VERSION, codec, 0, 0]);
        out.extend_from_slice(id.0.as_bytes());
        out.extend_from_slice(&(self.body.len() as u32).to_le_bytes());
        out.extend_from_slice(&self.requests.to_le_bytes());
        out.extend_from_slice(&self.events.to_le_bytes());
        out.extend_from_slice(body);
        self.body.clear();
        self.requests = 0;
        self.events = 0;
        out.freeze()
    }
}

/// Reads the head of a frame without inflating its body.
pub fn read_header(frame: &[u8]) -> Result<FrameHeader, FrameError> {
    let head = frame.get(..HEADER_BYTES).ok_or(FrameError::Truncated)?;
    if head[0] != VERSION {
        return Err(FrameError::Version(head[0]));
    }
    let mut id = [0; 16];
    id.copy_from_slice(&head[4..20]);
    let raw_bytes = u32_at(head, 20)?;
    if raw_bytes as usize > MAX_INFLATED_BYTES {
        return Err(FrameError::TooLarge(raw_bytes));
    }
    Ok(FrameHeader {
        id: FrameId(Uuid::from_bytes(id)),
        replay: head[FLAGS_AT] & REPLAY != 0,
        raw_bytes,
        requests: u32_at(head, 24)?,
        events: u32_at(head, 28)?,
    })
}

/// A copy of `frame` that says that it may be in the log already.
pub fn mark_replay(frame: &[u8]) -> Result<Bytes, FrameError> {
    read_header(frame)?;
    let mut out = BytesMut::from(frame);
    out[FLAGS_AT] |= REPLAY;
    Ok(out.freeze())
}

/// An inflated frame.
pub struct Frame {
    /// Its head.
    pub header: FrameHeader,
    body: Vec<u8>,
}

impl Frame {
    /// Inflates a frame.
    pub fn decode(frame: &[u8]) -> Result<Self, FrameError> {
        let header = read_header(frame)?;
        let body = &frame[HEADER_BYTES..];
        let raw_bytes = header.raw_bytes as usize;
        let body = match frame[1] {
            CODEC_STORED => body.to_vec(),
            CODEC_ZSTD => {
                zstd::bulk::decompress(body, raw_bytes).map_err(|_| FrameError::Inflate)?
            }
            other => return Err(FrameError::Codec(other)),
        };
        if body.len() != raw_bytes {
            return Err(FrameError::Inflate);
        }
        Ok(Self { header, body })
    }

    /// The requests in order, or the reason why the body is malformed.
    pub fn requests(&self) -> Result<Vec<Request<'_>>, FrameError> {
        let mut rest = self.body.as_slice();
        // Each request takes at least 16 bytes, so a lying count cannot reserve much.
        let expected = self.header.requests as usize;
        let mut requests = Vec::with_capacity(expected.min(rest.len() / 16 + 1));
        while !rest.is_empty() {
            requests.push(read_request(&mut rest)?);
        }
        if requests.len() == expected {
            Ok(requests)
        } else {
            Err(FrameError::Count)
        }
    }
}

fn read_request<'a>(rest: &mut &'a [u8]) -> Result<Request<'a>, FrameError> {
    let kind = ContentKind::from_byte(take::<1>(rest)?[0]).ok_or(FrameError::Request)?;
    let project = match take::<1>(rest)?[0] {
        0 => ProjectRef::Id(ProjectId(i64::from_le_bytes(take(rest)?))),
        1 => {
            let length = u16::from_le_bytes(take(rest)?);
            let slug = take_slice(rest, usize::from(length))?;
            ProjectRef::Slug(std::str::from_utf8(slug).map_err(|_| FrameError::Request)?)
        }
        _ => return Err(FrameError::Request),
    };
    let received_at_us = i64::from_le_bytes(take(rest)?);
    let length = u32::from_le_bytes(take(rest)?);
    let payload = take_slice(rest, length as usize)?;
    Ok(Request {
        project,
        received_at_us,
        kind,
        payload,
    })
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], FrameError> {
    let (head, tail) = rest.split_first_chunk::<N>().ok_or(FrameError::Truncated)?;
    *rest = tail;
    Ok(*head)
}

fn take_slice<'a>(rest: &mut &'a [u8], length: usize) -> Result<&'a [u8], FrameError> {
    let (head, tail) = rest.split_at_checked(length).ok_or(FrameError::Truncated)?;
    *rest = tail;
    Ok(head)
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32, FrameError> {
    bytes
        .get(at..)
        .and_then(<[u8]>::first_chunk)
        .map(|chunk| u32::from_le_bytes(*chunk))
        .ok_or(FrameError::Truncated)
}

#[cfg(test)]
mod tests;
