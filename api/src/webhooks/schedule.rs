//! When a failed delivery is tried again (management.md §12.6).

use chrono::TimeDelta;

/// Attempts in all.
pub(super) const MAX_ATTEMPTS: i32 = 8;

/// Seconds from a failed attempt to the next: after the first, the second, …
const DELAYS_S: [u32; MAX_ATTEMPTS as usize - 1] = [5, 25, 300, 1800, 7200, 21_600, 57_600];

/// How much later than planned an attempt may come, so that many do not come at once.
const JITTER: f64 = 0.1;

/// What becomes of a delivery after an attempt.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Verdict {
    Delivered,
    /// Again after this pause.
    Retry(TimeDelta),
    GivenUp,
}

/// Judges the attempt of that number, counted from 1. `chance` lies from 0 to 1.
pub(super) fn judge(attempt: i32, failed: bool, chance: f64) -> Verdict {
    match pause(attempt, chance) {
        _ if !failed => Verdict::Delivered,
        Some(pause) => Verdict::Retry(pause),
        None => Verdict::GivenUp,
    }
}

/// The pause after that many attempts, or none if that was the last. `chance`
/// lies from 0 to 1.
fn pause(attempts: i32, chance: f64) -> Option<TimeDelta> {
    let index = usize::try_from(attempts.checked_sub(1)?).ok()?;
    let delay_s = f64::from(*DELAYS_S.get(index)?);
    let milliseconds = delay_s * 1000.0 * (1.0 + JITTER * chance.clamp(0.0, 1.0));
    Some(TimeDelta::milliseconds(milliseconds as i64))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn eight_attempts_over_a_day() {
        let planned: Vec<_> = (1..8)
            .map(|n| pause(n, 0.0).unwrap().num_seconds())
            .collect();
        assert_eq!(planned, [5, 25, 300, 1800, 7200, 21_600, 57_600]);
        assert_eq!(judge(8, true, 0.0), Verdict::GivenUp);
        assert_eq!(judge(8, false, 0.0), Verdict::Delivered);
        assert_eq!(judge(1, true, 0.0), Verdict::Retry(TimeDelta::seconds(5)));
    }

    proptest! {
        #[test]
        fn jitter_is_late_and_at_most_a_tenth(attempts in 1..8, chance in 0.0..=1.0) {
            let planned = pause(attempts, 0.0).unwrap().num_milliseconds();
            let actual = pause(attempts, chance).unwrap().num_milliseconds();
            prop_assert!(actual >= planned && actual * 10 <= planned * 11);
        }
    }
}
