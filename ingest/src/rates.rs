//! How often a project may call: a token bucket for each, off by default.
//!
//! None per address, because carrier NAT puts whole cities behind one.

use dashmap::DashMap;
use sluice_schema::id::ProjectId;

/// A token bucket's size and flow.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ProjectRate {
    /// `SLUICE_INGEST_PROJECT_RATE`: requests a second.
    pub per_s: f64,
    /// `SLUICE_INGEST_PROJECT_BURST`: requests that may come at once.
    pub burst: f64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Bucket {
    tokens: f64,
    at_us: i64,
}

impl Bucket {
    fn full(rate: ProjectRate, now_us: i64) -> Self {
        Self {
            tokens: rate.burst,
            at_us: now_us,
        }
    }

    /// Takes one token, or says after how many whole seconds there is one. A
    /// clock that went back adds nothing.
    fn take(&mut self, rate: ProjectRate, now_us: i64) -> Result<(), u32> {
        let elapsed_s = (now_us - self.at_us).max(0) as f64 / 1e6;
        self.tokens = (self.tokens + elapsed_s * rate.per_s).min(rate.burst);
        self.at_us = now_us.max(self.at_us);
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            return Ok(());
        }
        let wait_s = (1.0 - self.tokens) / rate.per_s;
        Err(wait_s.ceil().clamp(1.0, 60.0) as u32)
    }
}

/// The buckets of this process, one for each project that has called.
pub(crate) struct Rates {
    rate: Option<ProjectRate>,
    /// Only ever ids that the directory knew, so as bounded as it is.
    buckets: DashMap<ProjectId, Bucket>,
}

impl Rates {
    pub(crate) fn new(rate: Option<ProjectRate>) -> Self {
        Self {
            rate,
            buckets: DashMap::new(),
        }
    }

    /// Counts one request; the error is a number of whole seconds to wait.
    pub(crate) fn take(&self, project: ProjectId, now_us: i64) -> Result<(), u32> {
        let Some(rate) = self.rate else {
            return Ok(());
        };
        let fresh = || Bucket::full(rate, now_us);
        self.buckets
            .entry(project)
            .or_insert_with(fresh)
            .take(rate, now_us)
    }
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
            burst in 1.0..100.0_f64,
            steps_us in prop::collection::vec(-1_000..300_000_i64, 1..200),
        ) {
            let rate = ProjectRate { per_s, burst };
            let mut bucket = Bucket::full(rate, 0);
            let (mut now_us, mut latest_us, mut passed) = (0, 0, 0_u32);
            for step_us in steps_us {
                now_us += step_us;
                latest_us = latest_us.max(now_us);
                passed += u32::from(bucket.take(rate, now_us).is_ok());
                let share = burst + per_s * latest_us as f64 / 1e6;
                prop_assert!(f64::from(passed) <= share + 1e-6);
            }
        }

        /// Who waits as long as the refusal says is let through.
        #[test]
        fn a_refusal_says_when_to_come_back(per_s in 1.0..1e5_f64, burst in 1.0..10.0_f64) {
            let rate = ProjectRate { per_s, burst };
            let mut bucket = Bucket::full(rate, 0);
            let wait_s = loop {
                if let Err(wait_s) = bucket.take(rate, 0) {
                    break wait_s;
                }
            };
            prop_assert_eq!(bucket.take(rate, i64::from(wait_s) * 1_000_000), Ok(()));
        }
    }

    #[test]
    fn projects_are_counted_apart_and_without_a_rate_everything_passes() {
        let rates = Rates::new(Some(ProjectRate {
            per_s: 1.0,
            burst: 2.0,
        }));
        let take = |project| rates.take(ProjectId(project), 0);
        assert_eq!(
            [take(1), take(1), take(1), take(2)],
            [Ok(()), Ok(()), Err(1), Ok(())]
        );
        let free = Rates::new(None);
        assert!((0..1_000).all(|_| free.take(ProjectId(1), 0).is_ok()));
    }
}
