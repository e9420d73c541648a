//! How often the anonymous flag routes may be called (design: a token bucket for
//! each project, and one for each device).

use std::hash::{BuildHasher as _, Hash, RandomState};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use moka::sync::Cache;
use sluice_schema::id::ProjectId;

/// Devices that are remembered at once. One that is forgotten starts afresh.
const MAX_DEVICES: u64 = 200_000;
/// A bucket that was idle for so long is full again.
const DEVICE_IDLE: Duration = Duration::from_secs(5);

/// Requests a second; a second's worth may come at once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FlagLimits {
    /// Of all devices of a project.
    pub project_per_s: f64,
    /// Of one device.
    pub device_per_s: f64,
}

impl Default for FlagLimits {
    fn default() -> Self {
        Self {
            project_per_s: 1_000.0,
            device_per_s: 20.0,
        }
    }
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
    pub(super) fn full(per_s: f64, now_us: i64) -> Self {
        Self {
            tokens: per_s,
            at_us: now_us,
        }
    }

    /// Takes one token, if there is one. A clock that went back adds nothing.
    pub(super) fn take(&mut self, per_s: f64, now_us: i64) -> Result<(), Exceeded> {
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
    projects: Cache<ProjectId, Arc<Mutex<Bucket>>>,
    /// By a hash that nobody outside can aim at.
    devices: Cache<u64, Arc<Mutex<Bucket>>>,
    hasher: RandomState,
}

impl Limiter {
    pub(super) fn new(limits: FlagLimits) -> Self {
        Self {
            limits,
            projects: Cache::builder().time_to_idle(DEVICE_IDLE).build(),
            devices: Cache::builder()
                .max_capacity(MAX_DEVICES)
                .time_to_idle(DEVICE_IDLE)
                .build(),
            hasher: RandomState::new(),
        }
    }

    /// Counts one request of a device, if it said which.
    pub(super) fn check(
        &self,
        project: ProjectId,
        device_id: Option<&str>,
        now: DateTime<Utc>,
    ) -> Result<(), Exceeded> {
        let now_us = now.timestamp_micros();
        let FlagLimits {
            project_per_s,
            device_per_s,
        } = self.limits;
        if let Some(device_id) = device_id.filter(|id| !id.is_empty()) {
            let device = self.hasher.hash_one((project, device_id));
            take(&self.devices, device, device_per_s, now_us)?;
        }
        take(&self.projects, project, project_per_s, now_us)
    }
}

/// Takes a token of a key's bucket, if there is one.
pub(crate) fn take<K: Hash + Eq + Send + Sync + 'static>(
    buckets: &Cache<K, Arc<Mutex<Bucket>>>,
    key: K,
    per_s: f64,
    now_us: i64,
) -> Result<(), Exceeded> {
    let bucket = buckets.get_with(key, || Arc::new(Mutex::new(Bucket::full(per_s, now_us))));
    let mut bucket = bucket.lock().unwrap_or_else(PoisonError::into_inner);
    bucket.take(per_s, now_us)
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
        });
        let now = DateTime::UNIX_EPOCH;
        let check = |project, device| limiter.check(ProjectId(project), device, now).is_ok();
        assert!(check(1, Some("a")) && check(1, Some("a")));
        assert!(!check(1, Some("a")));
        assert!(check(1, None));
        assert!(!check(1, Some("b")));
        assert!(check(2, Some("a")));
    }
}
