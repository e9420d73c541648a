//! Failed logins are counted per e-mail address and per network address, which
//! of IPv6 is a /64; too many in a window, and further attempts are refused
//! without looking.
//!
//! An attempt counts from its beginning until it has succeeded, so that many at
//! once get no more guesses than one after the other. E-mail addresses are kept
//! as hashes: nobody fills memory with long ones.
//!
//! Counts live in this process: with n replicas an attacker gets n times the
//! attempts, which is still few.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, TimeDelta, Utc};
use sha2::{Digest, Sha256};

use crate::error::{ApiError, ApiResult};
use crate::network::network;

const WINDOW: TimeDelta = TimeDelta::minutes(15);
const PER_EMAIL: u32 = 10;
const PER_ADDRESS: u32 = 100;
/// Above this many entries, those of past windows are dropped.
const PRUNE_ABOVE: usize = 10_000;

#[derive(Debug, Default)]
pub(crate) struct LoginThrottle {
    emails: Mutex<Windows<[u8; 32]>>,
    addresses: Mutex<Windows<IpAddr>>,
}

impl LoginThrottle {
    /// Counts an attempt as a failure for now; 429 while either has failed too
    /// often.
    pub(crate) fn begin(
        &self,
        email: &str,
        address: Option<IpAddr>,
        now: DateTime<Utc>,
    ) -> ApiResult<()> {
        let (mut emails, mut addresses) = (lock(&self.emails), lock(&self.addresses));
        let (email, address) = (hash(email), address.map(network));
        let by_email = emails.wait(&email, PER_EMAIL, now);
        let by_address = address.and_then(|a| addresses.wait(&a, PER_ADDRESS, now));
        if let Some(wait) = by_email.max(by_address) {
            let seconds = u32::try_from(wait.num_seconds() + 1).unwrap_or(1);
            let message = "too many failed logins, try again later";
            return Err(ApiError::too_many_requests(message, seconds));
        }
        emails.record(email, now);
        if let Some(address) = address {
            addresses.record(address, now);
        }
        Ok(())
    }

    /// An attempt was none of the failures after all.
    pub(crate) fn forgive(&self, email: &str, address: Option<IpAddr>) {
        lock(&self.emails).forgive(&hash(email));
        if let Some(address) = address.map(network) {
            lock(&self.addresses).forgive(&address);
        }
    }
}

fn hash(email: &str) -> [u8; 32] {
    Sha256::digest(email).into()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Counts stay usable whatever panicked while they were held.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug, Clone, Copy)]
struct Count {
    began: DateTime<Utc>,
    failures: u32,
}

#[derive(Debug)]
struct Windows<K>(HashMap<K, Count>);

impl<K> Default for Windows<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Hash + Eq> Windows<K> {
    /// How long `key` must wait, if it has used up its failures.
    fn wait(&self, key: &K, allowed: u32, now: DateTime<Utc>) -> Option<TimeDelta> {
        let count = self.0.get(key)?;
        let rest = count.began + WINDOW - now;
        (count.failures >= allowed && rest > TimeDelta::zero()).then_some(rest)
    }

    fn record(&mut self, key: K, now: DateTime<Utc>) {
        if self.0.len() > PRUNE_ABOVE {
            self.0.retain(|_, count| now < count.began + WINDOW);
        }
        let count = self.0.entry(key).or_insert(Count {
            began: now,
            failures: 0,
        });
        if now >= count.began + WINDOW {
            *count = Count {
                began: now,
                failures: 0,
            };
        }
        count.failures += 1;
    }

    fn forgive(&mut self, key: &K) {
        if let Some(count) = self.0.get_mut(key) {
            count.failures = count.failures.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_700_000_000 + second, 0).unwrap()
    }

    #[test]
    fn ten_failures_close_an_email_for_the_rest_of_the_window() {
        let throttle = LoginThrottle::default();
        for second in 0..10 {
            assert!(throttle.begin("a@example.test", None, at(second)).is_ok());
        }
        assert!(throttle.begin("a@example.test", None, at(10)).is_err());
        assert!(throttle.begin("b@example.test", None, at(10)).is_ok());
        assert!(throttle.begin("a@example.test", None, at(900)).is_ok());
    }

    #[test]
    fn an_address_may_fail_a_hundred_times_over_many_emails() {
        let (throttle, address) = (LoginThrottle::default(), Some(IpAddr::from([192, 0, 2, 1])));
        for n in 0..100 {
            let email = format!("{n}@example.test");
            assert!(throttle.begin(&email, address, at(0)).is_ok());
        }
        assert!(throttle.begin("new@example.test", address, at(1)).is_err());
        assert!(throttle.begin("new@example.test", None, at(1)).is_ok());
    }

    #[test]
    fn who_has_a_network_has_one_address() {
        let throttle = LoginThrottle::default();
        let begin = |n: u16, network: u16| {
            let address = IpAddr::from([0x2001, 0xdb8, 0, network, 0, 0, 0, n]);
            throttle.begin(&format!("{n}@example.test"), Some(address), at(0))
        };
        assert!((0..100).all(|n| begin(n, 1).is_ok()));
        assert!(begin(100, 1).is_err() && begin(100, 2).is_ok());
    }

    #[test]
    fn who_logs_in_has_not_failed() {
        let (throttle, address) = (LoginThrottle::default(), Some(IpAddr::from([192, 0, 2, 1])));
        for second in 0..200 {
            throttle
                .begin("a@example.test", address, at(second))
                .unwrap();
            throttle.forgive("a@example.test", address);
        }
    }

    #[test]
    fn a_new_window_counts_from_nothing() {
        let mut windows = Windows::default();
        (0..10).for_each(|_| windows.record("k", at(0)));
        windows.record("k", at(900));
        assert!(windows.wait(&"k", 10, at(901)).is_none());
    }
}
