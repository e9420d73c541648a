//! Undoes `Content-Encoding`, never past [`MAX_BODY_BYTES`].
//!
//! What always holds: at most one byte more than the limit is ever inflated,
//! and a decoder never takes more memory than its window of 8 MiB, whatever the
//! bytes. One gzip member or one zstd frame is a body; what follows it is an error.

use std::io::Read;

use bytes::Bytes;
use flate2::bufread::GzDecoder;
use sluice_schema::wire::MAX_BODY_BYTES;

use crate::media::Encoding;
use crate::outcome::Outcome;

/// Binary logarithm of the largest zstd window: what level 19 uses for large inputs.
const MAX_WINDOW_LOG: u32 = 23;
/// A guess of the ratio, to start the buffer with.
const USUAL_RATIO: usize = 4;

/// The body as the device had it before it compressed it.
pub(crate) fn inflate(encoding: Encoding, body: Bytes) -> Result<Bytes, Outcome> {
    match encoding {
        Encoding::Identity => Ok(body),
        Encoding::Gzip => gunzip(&body),
        Encoding::Zstd => unzstd(&body),
    }
}

fn gunzip(body: &[u8]) -> Result<Bytes, Outcome> {
    let mut decoder = GzDecoder::new(body);
    let inflated = read_capped(&mut decoder, body.len())?;
    at_end(decoder.get_ref())?;
    Ok(inflated)
}

fn unzstd(body: &[u8]) -> Result<Bytes, Outcome> {
    let mut decoder = zstd::stream::read::Decoder::with_buffer(body)
        .map_err(|_| Outcome::Inflate)?
        .single_frame();
    decoder
        .window_log_max(MAX_WINDOW_LOG)
        .map_err(|_| Outcome::Inflate)?;
    let inflated = read_capped(&mut decoder, body.len())?;
    at_end(decoder.finish())?;
    Ok(inflated)
}

fn at_end(rest: &[u8]) -> Result<(), Outcome> {
    if rest.is_empty() {
        Ok(())
    } else {
        Err(Outcome::Inflate)
    }
}

fn read_capped(decoder: &mut impl Read, compressed_bytes: usize) -> Result<Bytes, Outcome> {
    let expected = compressed_bytes.saturating_mul(USUAL_RATIO);
    let mut inflated = Vec::with_capacity(expected.min(MAX_BODY_BYTES));
    let limit = MAX_BODY_BYTES as u64 + 1;
    decoder
        .take(limit)
        .read_to_end(&mut inflated)
        .map_err(|_| Outcome::Inflate)?;
    if inflated.len() > MAX_BODY_BYTES {
        return Err(Outcome::TooLarge);
    }
    Ok(Bytes::from(inflated))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use proptest::prelude::*;

    use super::*;

    fn gzip(body: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(body).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(body: &[u8]) -> Vec<u8> {
        zstd::stream::encode_all(body, 1).unwrap()
    }

    fn both(body: &[u8]) -> [(Encoding, Vec<u8>); 2] {
        [(Encoding::Gzip, gzip(body)), (Encoding::Zstd, zstd(body))]
    }

    #[test]
    fn the_limit_is_exact() {
        for (encoding, compressed) in both(&vec![b' '; MAX_BODY_BYTES]) {
            let inflated = inflate(encoding, compressed.into()).unwrap();
            assert_eq!(inflated.len(), MAX_BODY_BYTES);
        }
        for (encoding, compressed) in both(&vec![b' '; MAX_BODY_BYTES + 1]) {
            assert_eq!(inflate(encoding, compressed.into()), Err(Outcome::TooLarge));
        }
    }

    #[test]
    fn a_window_past_ours_is_refused() {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(27).unwrap();
        encoder.write_all(b"{}").unwrap();
        let wide = encoder.finish().unwrap();
        assert_eq!(inflate(Encoding::Zstd, wide.into()), Err(Outcome::Inflate));
    }

    proptest! {
        #[test]
        fn what_was_compressed_comes_back(body in proptest::collection::vec(any::<u8>(), 0..2_000)) {
            for (encoding, compressed) in both(&body) {
                prop_assert_eq!(inflate(encoding, compressed.into()), Ok(Bytes::from(body.clone())));
            }
        }

        #[test]
        fn what_is_cut_or_continued_is_refused(
            body in proptest::collection::vec(any::<u8>(), 1..200), cut in any::<prop::sample::Index>(),
        ) {
            for (encoding, compressed) in both(&body) {
                let short = compressed[..cut.index(compressed.len())].to_vec();
                prop_assert_eq!(inflate(encoding, short.into()), Err(Outcome::Inflate));
                let long = [&*compressed, b"x"].concat();
                prop_assert_eq!(inflate(encoding, long.into()), Err(Outcome::Inflate));
            }
        }
    }
}
