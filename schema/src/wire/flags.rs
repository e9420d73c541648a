//! Flag states in the one form that is hashed, stored and compared.

use std::hash::Hasher as _;

use sha2::{Digest, Sha256};
use siphasher::sip::SipHasher24;

use super::json::{MAX_DEPTH, Value, depth};
use super::text::clean;

/// Most flags of one map (telemetry.md §2.6).
const MAX_FLAGS: usize = 200;
/// Longest value that is kept as it is, in bytes of JSON.
const MAX_VALUE_BYTES: usize = 1024;
/// Longest value that people give a flag, in bytes of JSON.
const MAX_SHOWN_BYTES: usize = 256 * 1024;
/// Largest map, in bytes of keys and values.
const MAX_MAP_BYTES: usize = 32 * 1024;

/// The flags that a device held: sorted by key, each key once, each value as
/// compact JSON, longer ones replaced by `"sha256:<hex>"` of their JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FlagStates(Vec<(String, String)>);

impl FlagStates {
    /// The canonical form of a `flagStates` object. Empty where it holds no flag.
    pub(super) fn read(value: Value<'_>) -> Self {
        let Some(members) = value.as_object() else {
            return Self::default();
        };
        let mut pairs: Vec<_> = members
            .map(|(key, value)| (clean(key, MAX_MAP_BYTES).into_owned(), value))
            .collect();
        // A stable sort keeps duplicates in the order sent; the last one wins.
        pairs.sort_by(|a, b| a.0.cmp(&b.0));
        pairs.reverse();
        pairs.dedup_by(|later, kept| later.0 == kept.0);
        pairs.reverse();
        let mut bytes = 0;
        let kept = pairs
            .into_iter()
            .take(MAX_FLAGS)
            .map(|(key, value)| (key, stored_value(value.to_json())));
        Self(
            kept.take_while(|(key, value)| {
                bytes += key.len() + value.len();
                bytes <= MAX_MAP_BYTES
            })
            .collect(),
        )
    }

    /// Whether no flag is held.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// (key, compact JSON of the value), by key.
    pub fn pairs(&self) -> &[(String, String)] {
        &self.0
    }

    /// The map's id: 0 where it is empty, else a hash that is never 0.
    pub fn id(&self) -> u64 {
        if self.0.is_empty() {
            return 0;
        }
        let mut hasher = SipHasher24::new();
        for (key, value) in &self.0 {
            // Lengths keep ("a", "bc") apart from ("ab", "c").
            hasher.write_u32(key.len() as u32);
            hasher.write(key.as_bytes());
            hasher.write_u32(value.len() as u32);
            hasher.write(value.as_bytes());
        }
        hasher.finish().max(1)
    }
}

/// The form in which a value is stored and compared: its compact JSON, or
/// `"sha256:<hex>"` of that where it is longer than 1 KiB or nested too deeply.
pub fn stored_value(json: String) -> String {
    bounded(json, MAX_VALUE_BYTES)
}

/// The form in which a value is shown to people: whole, where a flag can have it.
pub fn shown_value(json: String) -> String {
    bounded(json, MAX_SHOWN_BYTES)
}

fn bounded(json: String, max_bytes: usize) -> String {
    if json.len() <= max_bytes && depth(&json) <= MAX_DEPTH {
        return json;
    }
    format!("\"sha256:{}\"", hex::encode(Sha256::digest(json)))
}

/// The number that stands for a device in sketches and groupings: 0 for an
/// empty id, which is counted but never a distinct device (telemetry.md §2.2).
pub fn device_number(device_id: &str) -> u64 {
    if device_id.is_empty() {
        return 0;
    }
    let mut hasher = SipHasher24::new();
    hasher.write(device_id.as_bytes());
    hasher.finish().max(1)
}
