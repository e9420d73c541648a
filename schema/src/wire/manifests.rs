//! What is remembered of a request of the manifest endpoint: who asked, what
//! that device was running, and which update it was given, if any
//! (telemetry.md §8, expo-updates.md §2).
//!
//! It is written by us and not by a device, so it is a compact record and no
//! JSON. All integers are little-endian.
//!
//! ```text
//! version     u8    1
//! present     u8    bit 0: served, bit 1: current
//! served      16 B  the update of the manifest in the answer, if present
//! current     16 B  what the device was running, if present
//! six texts, each a u16 length and UTF-8:
//!                   device id, client id, platform, runtime version, channel, fatal error
//! failed      u8    count, then 16 B each
//! ```
//!
//! What always holds: encoding and decoding are inverse, but for what is past
//! its limit; decoding never panics, whatever the bytes.

use uuid::Uuid;

use super::Refusal;
use super::flags::device_number;
use super::text::clean;

/// Failed updates that are kept of one request.
pub const MAX_FAILED: usize = 16;

const VERSION: u8 = 1;
const SERVED: u8 = 1;
const CURRENT: u8 = 2;
const TEXTS: usize = 6;
/// Most bytes of each text, in the order of the record. Of a fatal error 1,024
/// characters travel.
const MAX_BYTES: [usize; TEXTS] = [256, 256, 64, 256, 256, 4096];

/// A request of the manifest endpoint and its answer. Texts are empty where
/// the device sent none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ManifestRequest<'a> {
    /// The update whose manifest was the answer: a download. None for "no
    /// update", a way back to the embedded bundle, and errors.
    pub served: Option<Uuid>,
    /// `Expo-Current-Update-ID`: what the device was running.
    pub current: Option<Uuid>,
    /// `expo-device-id`.
    pub device_id: &'a str,
    /// `EAS-Client-ID`.
    pub client_id: &'a str,
    /// Of the update served, else of the device.
    pub platform: &'a str,
    /// Of the update served, else of the device.
    pub runtime_version: &'a str,
    /// `expo-channel-name`, or its default `production`.
    pub channel: &'a str,
    /// `Expo-Fatal-Error`: the last crash.
    pub fatal_error: &'a str,
    /// `Expo-Recent-Failed-Update-IDs`: updates that crashed at launch.
    pub failed: Vec<Uuid>,
}

impl<'a> ManifestRequest<'a> {
    fn texts(&self) -> [&'a str; TEXTS] {
        [
            self.device_id,
            self.client_id,
            self.platform,
            self.runtime_version,
            self.channel,
            self.fatal_error,
        ]
    }

    /// The record. What is longer than its limit is cut.
    pub fn encode(&self) -> Vec<u8> {
        let served = self.served.filter(|update| !update.is_nil());
        let current = self.current.filter(|update| !update.is_nil());
        let mut out = vec![VERSION];
        out.push(served.map_or(0, |_| SERVED) | current.map_or(0, |_| CURRENT));
        for update in [served, current].into_iter().flatten() {
            out.extend_from_slice(update.as_bytes());
        }
        for (text, max_bytes) in self.texts().into_iter().zip(MAX_BYTES) {
            let text = clean(text, max_bytes);
            out.extend_from_slice(&(text.len() as u16).to_le_bytes());
            out.extend_from_slice(text.as_bytes());
        }
        let failed = &self.failed[..self.failed.len().min(MAX_FAILED)];
        out.push(failed.len() as u8);
        for update in failed {
            out.extend_from_slice(update.as_bytes());
        }
        out
    }

    /// Reads a record.
    ///
    /// # Errors
    /// [`Refusal::NotARecord`] for anything that [`ManifestRequest::encode`] does not make.
    pub fn decode(record: &'a [u8]) -> Result<Self, Refusal> {
        read(record).ok_or(Refusal::NotARecord)
    }

    /// The number of the device id, as in health events; 0 for none.
    pub fn device(&self) -> u64 {
        device_number(self.device_id)
    }

    /// The number of the identity `eas:<client id>`; 0 for none.
    pub fn client(&self) -> u64 {
        match self.client_id {
            "" => 0,
            id => device_number(&format!("eas:{id}")),
        }
    }
}

fn read(mut record: &[u8]) -> Option<ManifestRequest<'_>> {
    let rest = &mut record;
    let [version, present] = take(rest)?;
    if version != VERSION || present > SERVED | CURRENT {
        return None;
    }
    let mut update = |bit: u8| match present & bit {
        0 => Some(None),
        _ => Some(Some(take_uuid(rest)?)),
    };
    let (served, current) = (update(SERVED)?, update(CURRENT)?);
    let mut texts = [""; TEXTS];
    for text in &mut texts {
        *text = take_text(rest)?;
    }
    let [failed] = take(rest)?;
    let failed: Option<Vec<Uuid>> = (0..failed).map(|_| take_uuid(rest)).collect();
    let [
        device_id,
        client_id,
        platform,
        runtime_version,
        channel,
        fatal_error,
    ] = texts;
    rest.is_empty().then_some(ManifestRequest {
        served,
        current,
        device_id,
        client_id,
        platform,
        runtime_version,
        channel,
        fatal_error,
        failed: failed?,
    })
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = rest.split_first_chunk::<N>()?;
    *rest = tail;
    Some(*head)
}

fn take_uuid(rest: &mut &[u8]) -> Option<Uuid> {
    take(rest).map(Uuid::from_bytes)
}

fn take_text<'a>(rest: &mut &'a [u8]) -> Option<&'a str> {
    let length = u16::from_le_bytes(take(rest)?);
    let (text, tail) = rest.split_at_checked(usize::from(length))?;
    *rest = tail;
    std::str::from_utf8(text).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_update() -> impl Strategy<Value = Uuid> {
        (1..=u128::MAX).prop_map(Uuid::from_u128)
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(
            served in proptest::option::of(any_update()),
            current in proptest::option::of(any_update()),
            texts in proptest::array::uniform6("[a-z0-9é😀 ]{0,16}"),
            failed in proptest::collection::vec(any_update(), 0..=MAX_FAILED),
        ) {
            let [device_id, client_id, platform, runtime_version, channel, fatal_error] = &texts;
            let request = ManifestRequest {
                served, current, device_id, client_id, platform, runtime_version, channel,
                fatal_error, failed,
            };
            let record = request.encode();
            prop_assert_eq!(ManifestRequest::decode(&record), Ok(request));
            for end in 0..record.len() {
                prop_assert_eq!(ManifestRequest::decode(&record[..end]), Err(Refusal::NotARecord));
            }
        }

        #[test]
        fn rubbish_is_refused_and_no_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = ManifestRequest::decode(&bytes);
            let known = [&[VERSION, SERVED], bytes.as_slice()].concat();
            let _ = ManifestRequest::decode(&known);
        }
    }

    #[test]
    fn what_is_too_long_is_cut() {
        let long = "é".repeat(5_000);
        let request = ManifestRequest {
            device_id: &long,
            fatal_error: &long,
            failed: vec![Uuid::from_u128(7); 300],
            served: Some(Uuid::nil()),
            ..ManifestRequest::default()
        };
        let record = request.encode();
        let read = ManifestRequest::decode(&record).expect("a record");
        assert_eq!((read.device_id.len(), read.fatal_error.len()), (256, 4096));
        assert_eq!(read.failed.len(), MAX_FAILED);
        assert_eq!(read.served, None, "the nil UUID names no update");
    }

    #[test]
    fn an_unknown_version_and_trailing_bytes_are_refused() {
        let mut record = ManifestRequest::default().encode();
        record.push(0);
        assert!(ManifestRequest::decode(&record).is_err());
        record.pop();
        assert!(ManifestRequest::decode(&record).is_ok());
        record[0] = 2;
        assert!(ManifestRequest::decode(&record).is_err());
    }

    #[test]
    fn a_client_is_never_a_device_of_the_same_text() {
        let request = ManifestRequest {
            device_id: "x",
            client_id: "x",
            ..ManifestRequest::default()
        };
        assert_eq!(request.device(), device_number("x"));
        assert_ne!(request.device(), request.client());
        let nobody = ManifestRequest::default();
        assert_eq!((nobody.device(), nobody.client()), (0, 0));
    }
}
