//! Updates that go to everybody and that devices do not take (telemetry.md §6,
//! `adoption_drop`).
//!
//! What always holds: an update is told of once as long as it goes to
//! everybody; one that a newer update, or a branch rollout of its channel, takes
//! devices from is none. A row is healthy from the beginning: there is nothing
//! to resolve.

mod measure;
mod store;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};

use self::store::Candidate;
use super::store::Turn;
use crate::ApiState;
use crate::error::ApiResult;

/// Looking takes at most this share of the time, one part in so many: where it
/// is cheap, each round looks.
const SHARE: u32 = 20;
/// However dear it is, it is done so often: shares move in days.
const LONGEST_PACE: Duration = Duration::from_mins(10);
/// An update that goes to everybody for less is still on its way.
const AT_LEAST: TimeDelta = TimeDelta::hours(24);
/// Fewer devices say nothing.
const LEAST_DEVICES: u64 = 100;
/// Projects whose devices are looked at in one question.
const PROJECTS_AT_ONCE: usize = 200;

/// Devices that were active in some 24 hours, on the channel, platform and
/// runtime version of an update.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Reach {
    active: u64,
    /// Those of them whose latest evidence names the update.
    having: u64,
}

impl Reach {
    fn percent(self) -> f64 {
        100.0 * self.having as f64 / self.active.max(1) as f64
    }

    /// Whether devices do not take the update: too few have it, and hardly more
    /// than the day before. Of nobody a share of 0 had it.
    fn has_stalled_since(self, before: Self) -> bool {
        self.active >= LEAST_DEVICES && 2 * self.having < self.active && !self.grew_since(before)
    }

    /// Whether the share grew by a percentage point at least. Without divisions,
    /// so that one point is one.
    fn grew_since(self, before: Self) -> bool {
        let wide = |n: u64| i128::from(n);
        let (active, active_before) = (wide(self.active), wide(before.active.max(1)));
        let growth = wide(self.having) * active_before - wide(before.having) * active;
        100 * growth >= active * active_before
    }
}

/// What the last look of this process took, in milliseconds.
#[derive(Debug, Default)]
pub(in crate::insights) struct Cost(AtomicU64);

impl Cost {
    pub(super) fn last(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::Relaxed))
    }

    fn note(&self, took: Duration) {
        let ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        self.0.store(ms, Ordering::Relaxed);
    }
}

/// Whether it is time to look again, if the last look took so long. Whoever has
/// the last round, which is not remembered: time is cut into slots.
pub(super) fn is_due(
    took: Duration,
    last_round: Option<DateTime<Utc>>,
    now: DateTime<Utc>,
) -> bool {
    let pace = took.saturating_mul(SHARE).min(LONGEST_PACE);
    let pace_s = i64::try_from(pace.as_secs()).unwrap_or(i64::MAX).max(1);
    let slot = |at: DateTime<Utc>| at.timestamp().div_euclid(pace_s);
    last_round.is_none_or(|last| slot(last) != slot(now))
}

/// Looks at all updates that go to everybody, and tells of those that have
/// stalled. Projects that are too large for a question keep nobody else's back.
pub(super) async fn look(state: &ApiState, turn: &mut Turn, now: DateTime<Utc>) -> ApiResult<()> {
    let began = Instant::now();
    let candidates = store::candidates(turn, now - AT_LEAST).await?;
    for some in by_projects(&candidates) {
        match measure::reaches(&state.insights.reader, some, now).await {
            Ok(reaches) => {
                for (candidate, (today, before)) in some.iter().zip(reaches) {
                    if today.has_stalled_since(before) {
                        let description = describe(candidate, today, before, now);
                        store::tell(turn, candidate, today, &description, now).await?;
                    }
                }
            }
            Err(error) => tracing::warn!(%error, "cannot look at the adoption of some updates"),
        }
    }
    state.insights.adoption_cost.note(began.elapsed());
    Ok(())
}

/// Parts of so many projects; candidates come by project.
fn by_projects(candidates: &[Candidate]) -> Vec<&[Candidate]> {
    let projects: Vec<&[Candidate]> = candidates
        .chunk_by(|a, b| a.project_id == b.project_id)
        .collect();
    let mut rest = candidates;
    let mut parts = Vec::new();
    for some in projects.chunks(PROJECTS_AT_ONCE) {
        let (part, others) = rest.split_at(some.iter().map(|project| project.len()).sum());
        parts.push(part);
        rest = others;
    }
    parts
}

fn describe(update: &Candidate, today: Reach, before: Reach, now: DateTime<Utc>) -> String {
    format!(
        "{:.1} % of {} active devices on runtime version {} have the update, which goes to all of \
         them for {} hours; a day before {:.1} % had it",
        today.percent(),
        today.active,
        update.runtime_version,
        (now - update.full_since).num_hours(),
        before.percent(),
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn reach(having: u64, active: u64) -> Reach {
        Reach { active, having }
    }

    /// Table of telemetry.md §6: below 50 %, grew < 1 pp, >= 100 devices.
    #[test]
    fn an_update_stalls_below_half_without_a_point_of_growth_among_a_hundred() {
        for (today, before, expected) in [
            (reach(49, 100), reach(49, 100), true),
            (reach(50, 100), reach(50, 100), false),
            (reach(48, 99), reach(48, 99), false),
            (reach(499, 1_000), reach(490, 1_000), true),
            (reach(499, 1_000), reach(489, 1_000), false),
            // Fewer than before.
            (reach(100, 1_000), reach(300, 1_000), true),
            // The same share of other numbers.
            (reach(100, 1_000), reach(10, 100), true),
            (reach(0, 100), reach(0, 0), true),
            (reach(1, 100), reach(0, 0), false),
            (reach(1, 101), reach(0, 0), true),
            (reach(0, 0), reach(0, 0), false),
        ] {
            let stalled = today.has_stalled_since(before);
            assert_eq!(stalled, expected, "{today:?} after {before:?}");
        }
    }

    #[test]
    fn each_round_looks_where_it_is_cheap_and_however_dear_it_is_one_in_ten_minutes() {
        let at = |text: &str| text.parse::<DateTime<Utc>>().expect("an instant");
        let noon = at("2026-03-01T12:00:00Z");
        let ms = Duration::from_millis;
        assert!(is_due(ms(60_000), None, noon));
        // Rounds are half a minute apart at least.
        for took in [0, 1, 999, 1_500] {
            assert!(
                is_due(ms(took), Some(noon), at("2026-03-01T12:00:30Z")),
                "{took}"
            );
        }
        assert!(!is_due(ms(3_000), Some(noon), at("2026-03-01T12:00:59Z")));
        assert!(is_due(ms(3_000), Some(noon), at("2026-03-01T12:01:00Z")));
        for dear in [ms(30_000), ms(3_600_000), Duration::MAX] {
            assert!(!is_due(dear, Some(noon), at("2026-03-01T12:09:59Z")));
            assert!(is_due(dear, Some(noon), at("2026-03-01T12:10:00Z")));
            assert!(is_due(dear, Some(at("2026-03-01T11:59:59Z")), noon));
        }
    }

    #[test]
    fn parts_hold_whole_projects_and_everything() {
        let candidate = |project_id| Candidate {
            project_id,
            ..Candidate::for_tests()
        };
        let candidates: Vec<Candidate> = (0..450)
            .flat_map(|n| [candidate(n), candidate(n)])
            .collect();
        let parts = by_projects(&candidates);
        let sizes: Vec<usize> = parts.iter().map(|part| part.len()).collect();
        assert_eq!(sizes, [400, 400, 100]);
        assert!(by_projects(&[]).is_empty());
    }

    proptest! {
        #[test]
        fn what_stalled_is_still_so_with_fewer_takers(
            active in 1_u64..10_000, having in 0_u64..10_000, less in 0_u64..10_000,
            before in (0_u64..10_000, 1_u64..10_000),
        ) {
            let (having, before) = (having.min(active), reach(before.0.min(before.1), before.1));
            let fewer = reach(having.saturating_sub(less), active);
            if reach(having, active).has_stalled_since(before) {
                prop_assert!(fewer.has_stalled_since(before));
            }
        }

        #[test]
        fn growth_is_that_of_the_shares(
            today in (0_u64..5_000, 1_u64..5_000), before in (0_u64..5_000, 1_u64..5_000),
        ) {
            let today = reach(today.0.min(today.1), today.1);
            let before = reach(before.0.min(before.1), before.1);
            let points = today.percent() - before.percent();
            prop_assume!((points - 1.0).abs() > 1e-9);
            prop_assert_eq!(today.grew_since(before), points > 1.0);
        }
    }
}
