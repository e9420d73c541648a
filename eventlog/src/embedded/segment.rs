//! One file of the embedded log, and what its bytes mean.
//!
//! ```text
//! file name    <first offset, 20 digits>.log
//! file header  "SLUICELG", version u32 = 1, incarnation 16 bytes, zero u32     32 bytes
//! record       length u32, CRC-32C u32, offset u64, then `length` bytes
//! ```
//!
//! Integers are little-endian. The checksum covers length, offset and bytes.
//! Offsets count records and have no gaps. A record is written and synced
//! before the next one is begun, so that a crash can only harm the last one:
//! bytes that fail their checksum are cut off if nothing valid follows them,
//! and are damage that refuses to open if something does.

use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::Offset;

/// Length of the file header.
pub(crate) const FILE_HEADER_BYTES: u64 = 32;
/// Length of a record's head.
pub(crate) const RECORD_HEADER_BYTES: u64 = 16;
/// Longest record: a frame with one request of 2 MiB, with room to spare.
pub(crate) const MAX_RECORD_BYTES: usize = 4 * 1024 * 1024;

const MAGIC: &[u8; 8] = b"SLUICELG";
const VERSION: u32 = 1;

/// Identity of a log, created with it and written into each of its files.
pub(crate) type Incarnation = [u8; 16];

/// The head of a segment file.
pub(crate) fn file_header(incarnation: &Incarnation) -> [u8; FILE_HEADER_BYTES as usize] {
    let mut header = [0; FILE_HEADER_BYTES as usize];
    header[..8].copy_from_slice(MAGIC);
    header[8..12].copy_from_slice(&VERSION.to_le_bytes());
    header[12..28].copy_from_slice(incarnation);
    header
}

/// The incarnation in a file header; `None` where the bytes are no header of ours.
pub(crate) fn read_file_header(bytes: &[u8]) -> Option<Incarnation> {
    let header = bytes.get(..FILE_HEADER_BYTES as usize)?;
    let known = &header[..8] == MAGIC && header[8..12] == VERSION.to_le_bytes();
    known.then(|| header[12..28].try_into().ok()).flatten()
}

/// Writes a record's head and bytes into `out`, which is cleared first.
pub(crate) fn encode_record(offset: Offset, bytes: &[u8], out: &mut Vec<u8>) {
    // Callers hold records to `MAX_RECORD_BYTES`, which fits.
    let length = (bytes.len() as u32).to_le_bytes();
    out.clear();
    out.extend_from_slice(&length);
    out.extend_from_slice(&checksum(length, offset, bytes).to_le_bytes());
    out.extend_from_slice(&offset.to_le_bytes());
    out.extend_from_slice(bytes);
}

fn checksum(length: [u8; 4], offset: Offset, bytes: &[u8]) -> u32 {
    let head = crc32c::crc32c_append(crc32c::crc32c(&length), &offset.to_le_bytes());
    crc32c::crc32c_append(head, bytes)
}

/// The record at the start of `bytes`, if it is whole and its checksum holds.
pub(crate) fn parse_record(bytes: &[u8]) -> Option<(Offset, &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (crc, rest) = rest.split_first_chunk::<4>()?;
    let (offset, rest) = rest.split_first_chunk::<8>()?;
    let body = rest.get(..u32::from_le_bytes(*length) as usize)?;
    let offset = u64::from_le_bytes(*offset);
    (checksum(*length, offset, body) == u32::from_le_bytes(*crc)).then_some((offset, body))
}

/// What a scan of a segment's bytes found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Scan {
    /// Where each valid record begins.
    pub(crate) positions: Vec<u64>,
    /// End of the last valid record.
    pub(crate) end: u64,
    /// What lies behind `end`.
    pub(crate) tail: Tail,
}

/// What lies behind the last valid record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tail {
    /// Nothing.
    Clean,
    /// The remains of a write that was never acknowledged.
    Torn,
    /// Something valid: the bytes before it were damaged after they were synced.
    Damaged,
}

/// Reads all records of a segment that begins at offset `first`. Never panics.
pub(crate) fn scan(bytes: &[u8], first: Offset) -> Scan {
    let mut positions = Vec::new();
    let mut at = FILE_HEADER_BYTES as usize;
    while let Some((offset, body)) = bytes.get(at..).and_then(parse_record) {
        if offset != first + positions.len() as u64 {
            break;
        }
        positions.push(at as u64);
        at += RECORD_HEADER_BYTES as usize + body.len();
    }
    let end = at as u64;
    let next = first + positions.len() as u64;
    let tail = match bytes.get(at..) {
        None | Some([]) => Tail::Clean,
        Some(rest) if holds_a_later_record(rest, next) => Tail::Damaged,
        Some(_) => Tail::Torn,
    };
    Scan {
        positions,
        end,
        tail,
    }
}

/// Whether a valid record with an offset past `next` begins anywhere in `bytes`.
fn holds_a_later_record(bytes: &[u8], next: Offset) -> bool {
    let most = next + bytes.len() as u64 / RECORD_HEADER_BYTES + 1;
    (1..bytes.len()).any(|at| {
        let candidate = &bytes[at..];
        plausible_offset(candidate).is_some_and(|offset| offset > next && offset <= most)
            && parse_record(candidate).is_some()
    })
}

fn plausible_offset(bytes: &[u8]) -> Option<Offset> {
    bytes
        .get(8..16)?
        .first_chunk::<8>()
        .map(|chunk| u64::from_le_bytes(*chunk))
}

/// An open segment and where its records are.
#[derive(Debug)]
pub(crate) struct Segment {
    /// Offset of its first record.
    pub(crate) first: Offset,
    /// The file.
    pub(crate) file: std::sync::Arc<File>,
    /// Where each record begins.
    pub(crate) positions: Vec<u64>,
    /// End of the last record.
    pub(crate) end: u64,
}

impl Segment {
    /// The offset after its last record.
    pub(crate) fn next(&self) -> Offset {
        self.first + self.positions.len() as u64
    }

    /// Where the record at `offset` lies, as (position, length with its head).
    pub(crate) fn locate(&self, offset: Offset) -> Option<(u64, u64)> {
        let index = usize::try_from(offset.checked_sub(self.first)?).ok()?;
        let position = *self.positions.get(index)?;
        let end = self.positions.get(index + 1).copied().unwrap_or(self.end);
        Some((position, end - position))
    }
}

/// Reads the bytes of one record; `None` where its checksum does not hold.
pub(crate) fn read_record(
    file: &File,
    position: u64,
    length: u64,
    offset: Offset,
) -> std::io::Result<Option<Vec<u8>>> {
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(MAX_RECORD_BYTES)];
    file.read_exact_at(&mut bytes, position)?;
    let valid = parse_record(&bytes).is_some_and(|(found, _)| found == offset);
    Ok(valid.then(|| bytes.split_off(RECORD_HEADER_BYTES as usize)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn segment_of(records: &[Vec<u8>], first: Offset) -> Vec<u8> {
        let mut bytes = file_header(&[7; 16]).to_vec();
        let mut record = Vec::new();
        for (index, body) in records.iter().enumerate() {
            encode_record(first + index as u64, body, &mut record);
            bytes.extend_from_slice(&record);
        }
        bytes
    }

    fn bodies() -> impl Strategy<Value = Vec<Vec<u8>>> {
        proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..60), 1..12)
    }

    proptest! {
        #[test]
        fn what_was_written_is_found(records in bodies(), first in 0_u64..1 << 40) {
            let bytes = segment_of(&records, first);
            let found = scan(&bytes, first);
            prop_assert_eq!(found.positions.len(), records.len());
            prop_assert_eq!((found.end, found.tail), (bytes.len() as u64, Tail::Clean));
        }

        #[test]
        fn a_cut_anywhere_loses_only_what_it_cuts(records in bodies(), at in any::<prop::sample::Index>()) {
            let bytes = segment_of(&records, 3);
            let whole = scan(&bytes, 3);
            let cut = FILE_HEADER_BYTES as usize + at.index(bytes.len() - FILE_HEADER_BYTES as usize);
            let found = scan(&bytes[..cut], 3);
            let kept = whole.positions.iter().skip(1).chain([&whole.end]).filter(|end| **end <= cut as u64).count();
            prop_assert_eq!(found.positions.len(), kept);
            prop_assert_ne!(found.tail, Tail::Damaged);
        }

        #[test]
        fn a_flipped_bit_is_never_served(
            records in bodies(), at in any::<prop::sample::Index>(), bit in 0_u8..8,
        ) {
            let mut bytes = segment_of(&records, 3);
            let whole = scan(&bytes, 3);
            let at = FILE_HEADER_BYTES as usize + at.index(bytes.len() - FILE_HEADER_BYTES as usize);
            bytes[at] ^= 1 << bit;
            let found = scan(&bytes, 3);
            let harmed = whole.positions.iter().rposition(|p| *p <= at as u64).unwrap();
            prop_assert_eq!(found.positions.len(), harmed);
            let expected = if harmed + 1 < records.len() { Tail::Damaged } else { Tail::Torn };
            prop_assert_eq!(found.tail, expected);
        }

        #[test]
        fn rubbish_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400), first in any::<u32>()) {
            let found = scan(&bytes, u64::from(first));
            prop_assert!(found.positions.is_empty());
        }
    }
}
