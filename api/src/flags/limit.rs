//! How often the anonymous flag routes may be called: a token bucket for each
//! project, for each device, and for each network address (flags.md §13).
//!
//! Devices name themselves as they like, and networks put many of them behind
//! one address. So an address may take half of what a project may, and an
//! address of this machine, which is a proxy or a developer, what it wants
//! (docs/decisions/0205).

use std::hash::{BuildHasher as _, Hash, RandomState};
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use chrono::{DateTime, Utc};
use dashmap::DashMap;
use sluice_schema::id::ProjectId;

use crate::network::network;

/// Callers are remembered in so many sets.
const SETS: usize = 32_768;
/// Callers of a set.
const WAYS: usize = 4;

/// Requests a second; a second's worth may come at once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FlagLimits {
    /// Of all devices of a project.
    pub project_per_s: f64,
    /// Of one device.
    pub device_per_s: f64,
    /// Of one IPv4 address, or of one IPv6 network (/64).
    pub address_per_s: f64,
}

impl Default for FlagLimits {
    fn default() -> Self {
        Self {
            project_per_s: 1_000.0,
            device_per_s: 20.0,
            address_per_s: 500.0,
        }
    }
}

/// Who asks, as far as it is known.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Asker<'a> {
    /// What the device calls itself.
    pub(super) device_id: Option<&'a str>,
    /// Where the request comes from. None where it is not counted.
    pub(super) address: Option<IpAddr>,
}

/// Too many requests; the next may come after this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Exceeded {
    /// Whole seconds, at least 1.
    pub(crate) retry_after_s: u32,
}

/// A token bucket that holds at most one second's worth.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Bucket {
    tokens: f64,
    at_us: i64,
}

impl Bucket {
    /// A full bucket.
    pub(crate) fn full(per_s: f64, now_us: i64) -> Self {
        Self {
            tokens: per_s,
            at_us: now_us,
        }
    }

    /// Takes one token, if there is one. A clock that went back adds nothing.
    pub(crate) fn take(&mut self, per_s: f64, now_us: i64) -> Result<(), Exceeded> {
        let elapsed_s = (now_us - self.at_us).max(0) as f64 / 1e6;
        self.tokens = (self.tokens + elapsed_s * per_s).min(per_s);
        self.at_us = now_us.max(self.at_us);
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            return Ok(());
        }
        let wait_s = (1.0 - self.tokens) / per_s;
        Err(Exceeded {
            retry_after_s: wait_s.ceil().clamp(1.0, 60.0) as u32,
        })
    }
}

/// The buckets of this process.
pub(super) struct Limiter {
    limits: FlagLimits,
    /// Only ever ids that the directory knew, so as bounded as it is.
    projects: DashMap<ProjectId, Bucket>,
    devices: Callers,
    addresses: Callers,
}

impl Limiter {
    pub(super) fn new(limits: FlagLimits) -> Self {
        Self {
            limits,
            projects: DashMap::new(),
            devices: Callers::new(),
            addresses: Callers::new(),
        }
    }

    /// Counts one request. What one caller has too many of is not its project's.
    pub(super) fn check(
        &self,
        project: ProjectId,
        asker: Asker<'_>,
        now: DateTime<Utc>,
    ) -> Result<(), Exceeded> {
        let now_us = now.timestamp_micros();
        let FlagLimits {
            project_per_s,
            device_per_s,
            address_per_s,
        } = self.limits;
        if let Some(address) = asker.address.filter(|address| !address.is_loopback()) {
            self.addresses
                .take(network(address), address_per_s, now_us)?;
        }
        if let Some(device_id) = asker.device_id.filter(|id| !id.is_empty()) {
            self.devices
                .take((project, device_id), device_per_s, now_us)?;
        }
        let bucket = self.projects.entry(project);
        let mut bucket = bucket.or_insert_with(|| Bucket::full(project_per_s, now_us));
        bucket.take(project_per_s, now_us)
    }
}

/// The buckets of those who called last: a table that never grows. In a
/// set that is full the one that was away longest is forgotten, and starts
/// afresh; after a second away its bucket is full anyway.
struct Callers {
    sets: Box<[Mutex<[Slot; WAYS]>]>,
    /// Nobody outside can aim at a set.
    hasher: RandomState,
}

#[derive(Clone, Copy)]
struct Slot {
    caller: u64,
    bucket: Bucket,
}

impl Slot {
    /// Nobody's.
    const EMPTY: Self = Self {
        caller: 0,
        bucket: Bucket {
            tokens: 0.0,
            at_us: i64::MIN,
        },
    };
}

impl Callers {
    fn new() -> Self {
        let set = || Mutex::new([Slot::EMPTY; WAYS]);
        Self {
            sets: std::iter::repeat_with(set).take(SETS).collect(),
            hasher: RandomState::new(),
        }
    }

    fn take(&self, caller: impl Hash, per_s: f64, now_us: i64) -> Result<(), Exceeded> {
        let caller = self.hasher.hash_one(caller).max(1);
        let set = &self.sets[caller as usize % SETS];
        let mut set = set.lock().unwrap_or_else(PoisonError::into_inner);
        take_of(&mut set, caller, per_s, now_us)
    }
}

fn take_of(set: &mut [Slot; WAYS], caller: u64, per_s: f64, now_us: i64) -> Result<(), Exceeded> {
    if let Some(slot) = set.iter_mut().find(|slot| slot.caller == caller) {
        return slot.bucket.take(per_s, now_us);
    }
    let mut bucket = Bucket::full(per_s, now_us);
    let taken = bucket.take(per_s, now_us);
    if let Some(oldest) = set.iter_mut().min_by_key(|slot| slot.bucket.at_us) {
        *oldest = Slot { caller, bucket };
    }
    taken
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// In any span, no more pass than a full bucket and what flowed in since.
        #[test]
        fn no_span_lets_more_pass_than_its_share(
            per_s in 1.0..50.0_f64,
            steps_us in prop::collection::vec(-1_000..300_000_i64, 1..200),
        ) {
            let mut bucket = Bucket::full(per_s, 0);
            let (mut now_us, mut latest_us, mut passed) = (0, 0, 0_u32);
            for step_us in steps_us {
                now_us += step_us;
                latest_us = latest_us.max(now_us);
                passed += u32::from(bucket.take(per_s, now_us).is_ok());
                let share = per_s + per_s * latest_us as f64 / 1e6;
                prop_assert!(f64::from(passed) <= share + 1e-6);
            }
        }

        /// Who keeps to the rate is never refused.
        #[test]
        fn a_steady_client_is_never_refused(per_s in 1_u32..50) {
            let mut bucket = Bucket::full(f64::from(per_s), 0);
            for request in 0..200 {
                let now_us = i64::from(request) * (1_000_000 / i64::from(per_s) + 1);
                prop_assert!(bucket.take(f64::from(per_s), now_us).is_ok());
            }
        }
    }

    #[test]
    fn a_refusal_says_when_to_come_back() {
        let mut bucket = Bucket::full(20.0, 0);
        for _ in 0..20 {
            assert_eq!(bucket.take(20.0, 0), Ok(()));
        }
        assert_eq!(bucket.take(20.0, 0), Err(Exceeded { retry_after_s: 1 }));
        assert_eq!(bucket.take(20.0, 50_000), Ok(()));
    }

    #[test]
    fn devices_and_projects_are_counted_apart() {
        let limiter = Limiter::new(FlagLimits {
            project_per_s: 3.0,
            device_per_s: 2.0,
            address_per_s: 100.0,
        });
        let now = DateTime::UNIX_EPOCH;
        let check = |project, device_id| {
            let asker = Asker {
                device_id,
                address: None,
            };
            limiter.check(ProjectId(project), asker, now).is_ok()
        };
        assert!(check(1, Some("a")) && check(1, Some("a")));
        assert!(!check(1, Some("a")));
        assert!(check(1, None));
        assert!(!check(1, Some("b")));
        assert!(check(2, Some("a")));
    }

    #[test]
    fn addresses_are_counted_over_all_projects_and_devices() {
        let limiter = Limiter::new(FlagLimits {
            address_per_s: 2.0,
            ..FlagLimits::default()
        });
        let mut device = 0;
        let mut check = |project, address: &str| {
            device += 1;
            let asker = Asker {
                device_id: Some(&device.to_string()),
                address: Some(address.parse().unwrap()),
            };
            let checked = limiter.check(ProjectId(project), asker, DateTime::UNIX_EPOCH);
            checked.is_ok()
        };
        assert!(check(1, "192.0.2.1") && check(2, "192.0.2.1") && !check(3, "192.0.2.1"));
        assert!(check(1, "192.0.2.2"));
        assert!(check(1, "2001:db8::1") && check(1, "2001:db8::2") && !check(1, "2001:db8::3"));
        assert!((0..9).all(|_| check(1, "127.0.0.1") && check(1, "::1")));
    }

    /// Whoever calls again and again is remembered, whoever else comes.
    #[test]
    fn a_full_set_forgets_who_was_away_longest() {
        let mut set = [Slot::EMPTY; WAYS];
        for stranger in 2..200 {
            let now_us = stranger as i64;
            let greedy = take_of(&mut set, 1, 3.0, now_us);
            assert_eq!(greedy.is_ok(), stranger < 5, "call {stranger}");
            assert!(take_of(&mut set, stranger, 3.0, now_us).is_ok());
        }
    }
}
