//! Where a targeting key falls in a percentage rollout (flags.md §7).

use sha2::{Digest, Sha256};

/// Which of the two schemes a rollout rule uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bucketing {
    /// What published clients compute: 100 buckets, visibly uneven.
    V1,
    /// 10,000 even buckets, computed by the server alone.
    V2 {
        /// Rollouts of equal salt put a key at the same place. None: the flag's key.
        salt: Option<String>,
    },
}

const START_V1: u32 = 0x811C_9DC5;

/// The published hash, continued from `hash`. Its multiplication runs in double
/// precision and loses low bits, so it is *not* FNV-1a, and it works over UTF-16
/// code units.
fn continue_v1(hash: u32, text: &str) -> u32 {
    text.encode_utf16().fold(hash, |hash, unit| {
        let signed = (hash ^ u32::from(unit)).cast_signed();
        let product = f64::from(signed) * 16_777_619.0;
        // Whole, and below 2^56 in magnitude: the cast is exact.
        product as i64 as u32
    })
}

/// The published scheme for one flag, whose key is hashed already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyedV1(u32);

impl KeyedV1 {
    /// For the flag of this key.
    pub fn new(flag_key: &str) -> Self {
        Self(continue_v1(START_V1, flag_key))
    }

    /// The bucket, 0 to 99, that on-device evaluators compute.
    pub fn bucket(self, targeting_key: &str) -> u32 {
        continue_v1(self.0, targeting_key) % 100
    }
}

/// The bucket, 0 to 9,999, of the even scheme.
pub fn v2(salt: &str, targeting_key: &str) -> u32 {
    let digest = Sha256::new()
        .chain_update(salt)
        .chain_update([0])
        .chain_update(targeting_key)
        .finalize();
    let first = digest
        .iter()
        .take(8)
        .fold(0_u64, |n, byte| n << 8 | u64::from(*byte));
    (first % 10_000) as u32
}

#[cfg(test)]
pub(super) fn hash_v1_of(text: &str) -> u32 {
    continue_v1(START_V1, text)
}
