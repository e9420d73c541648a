//! How often one network address may ask for files. Devices name nothing else
//! that they could not choose.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use moka::sync::Cache;

use crate::error::{ApiError, ApiResult};
use crate::flags::limit::{Bucket, Exceeded};
use crate::network::network;

/// Addresses that are remembered at once. One that is forgotten starts afresh.
const MAX_ADDRESSES: u64 = 200_000;
/// A bucket that was idle for so long is full again.
const IDLE: Duration = Duration::from_secs(5);

/// Requests a second; a second's worth may come at once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AssetLimits {
    /// Of one IPv4 address, or of one IPv6 network (/64). Many devices may be
    /// behind it.
    pub address_per_s: f64,
}

impl Default for AssetLimits {
    fn default() -> Self {
        Self {
            address_per_s: 500.0,
        }
    }
}

/// The buckets of this process.
pub(crate) struct AssetReads {
    limits: AssetLimits,
    addresses: Cache<IpAddr, Arc<Mutex<Bucket>>>,
}

impl AssetReads {
    pub(crate) fn new(limits: AssetLimits) -> Self {
        Self {
            limits,
            addresses: Cache::builder()
                .max_capacity(MAX_ADDRESSES)
                .time_to_idle(IDLE)
                .build(),
        }
    }

    /// Counts one request; 429 if it is one too many.
    pub(super) fn check(&self, address: Option<IpAddr>, now: DateTime<Utc>) -> ApiResult<()> {
        let Some(address) = address else {
            return Ok(());
        };
        let (per_s, now_us) = (self.limits.address_per_s, now.timestamp_micros());
        let taken = take(&self.addresses, network(address), per_s, now_us);
        taken.map_err(|Exceeded { retry_after_s }| {
            ApiError::too_many_requests("too many requests", retry_after_s)
        })
    }
}

/// Takes a token of an address's bucket, if there is one.
fn take(
    buckets: &Cache<IpAddr, Arc<Mutex<Bucket>>>,
    address: IpAddr,
    per_s: f64,
    now_us: i64,
) -> Result<(), Exceeded> {
    let full = || Arc::new(Mutex::new(Bucket::full(per_s, now_us)));
    let bucket = buckets.get_with(address, full);
    let mut bucket = bucket.lock().unwrap_or_else(PoisonError::into_inner);
    bucket.take(per_s, now_us)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_counted_apart_and_the_unknown_is_not_counted() {
        let reads = AssetReads::new(AssetLimits { address_per_s: 2.0 });
        let check = |address: &str| {
            let address = Some(address.parse().unwrap());
            reads.check(address, DateTime::UNIX_EPOCH).is_ok()
        };
        assert!(check("10.0.0.1") && check("10.0.0.1") && !check("10.0.0.1"));
        assert!(check("10.0.0.2"));
        assert!(check("2001:db8::1") && check("2001:db8::2") && !check("2001:db8::ffff:1:2:3"));
        assert!(check("2001:db8:0:1::1"));
        assert!((0..9).all(|_| reads.check(None, DateTime::UNIX_EPOCH).is_ok()));
    }
}
