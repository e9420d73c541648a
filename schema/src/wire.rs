//! Bodies of the device endpoints, and the one set of rules by which they are
//! refused, kept, clamped, cut or dropped (telemetry.md §2 and §3).
//!
//! The edge decodes a body to validate it and to count its events; the
//! aggregator decodes the same bytes to make rows. Both call the same function,
//! so that what was accepted is what is counted. A body travels as the device
//! sent it: nothing is ever serialised again. Requests of the manifest endpoint
//! have no body and are written as records of our own ([`manifests`]).
//!
//! What always holds: decoding is a pure function of the bytes; it neither
//! panics nor recurses, whatever the bytes; a field's text is materialised only
//! when it is asked for.

pub mod evaluations;
pub mod flags;
pub mod health;
mod json;
pub mod manifests;
pub mod tags;
mod tape;
mod text;

pub use self::text::repair_lone_surrogates;

use serde::de::IgnoredAny;
use simd_json::{Node, StaticNode};
use thiserror::Error;

/// The least number of 18 digits.
const LONG_NUMBER: u64 = 100_000_000_000_000_000;

/// Largest accepted body after decompression, in bytes (telemetry.md §2.5).
pub const MAX_BODY_BYTES: usize = 2 * 1024 * 1024;

/// Why a body is refused as a whole. All of these are a 400 (telemetry.md §0).
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// Not JSON, or not UTF-8.
    #[error("the body is not valid JSON")]
    NotJson,
    /// A required field is missing or null.
    #[error("{0} is required")]
    Missing(&'static str),
    /// A field is of the wrong type.
    #[error("{field} must be {expected}")]
    WrongType {
        /// Path of the field.
        field: &'static str,
        /// What it must be, with its article.
        expected: &'static str,
    },
    /// Not one event of the batch has a type that is known.
    #[error("events[].type must be one of app_launch, js_error, crash, custom, perf_sample")]
    NoKnownEvent,
    /// Not a record of our own that this release can read.
    #[error("the record is cut short or of an unknown version")]
    NotARecord,
}

/// Reusable memory of a decoder. One per thread or connection.
#[derive(Default)]
pub struct Scratch {
    body: Vec<u8>,
    buffers: simd_json::Buffers,
}

impl Scratch {
    /// Parses `body` into a tape that borrows this scratch.
    fn parse(&mut self, body: &[u8]) -> Result<simd_json::Tape<'_>, Refusal> {
        let body = body.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(body);
        self.body.clear();
        self.body.extend_from_slice(body);
        repair_lone_surrogates(&mut self.body);
        let tape = simd_json::to_tape_with_buffers(&mut self.body, &mut self.buffers)
            .map_err(|_| Refusal::NotJson)?;
        if is_strict(body, &tape) {
            Ok(tape)
        } else {
            Err(Refusal::NotJson)
        }
    }
}

/// Whether `body` is JSON where simd-json does not look closely: it takes a NUL
/// for the end of a token, and whatever follows a long number for nothing.
fn is_strict(body: &[u8], tape: &simd_json::Tape<'_>) -> bool {
    let has_nul = memchr::memchr(0, body).is_some();
    let has_long_number = tape.0.iter().any(may_be_a_long_number);
    !has_nul && (!has_long_number || serde_json::from_slice::<IgnoredAny>(body).is_ok())
}

/// Whether it may have been written with 18 digits or more.
fn may_be_a_long_number(node: &Node<'_>) -> bool {
    match node {
        Node::Static(StaticNode::F64(_)) => true,
        Node::Static(StaticNode::I64(value)) => value.unsigned_abs() >= LONG_NUMBER,
        Node::Static(StaticNode::U64(value)) => *value >= LONG_NUMBER,
        _ => false,
    }
}
