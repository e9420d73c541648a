//! The metrics of telemetry.md §4, as functions of sums.
//!
//! What always holds: rates lie between 0 and 100, never average rates but
//! divide sums, and are rounded once, exactly, half away from zero.

use std::iter::Sum;
use std::ops::AddAssign;

use serde::{Serialize, Serializer};
use utoipa::ToSchema;

/// Sums stay below it, so that products of three fit 128 bits; it is also the
/// largest whole number of a JavaScript client.
const MAX_SUM: u64 = (1 << 53) - 1;
/// Of the standard normal distribution, for an interval of 95 %.
const Z_95: f64 = 1.959_963_984_540_054;
/// Above it a slice is degraded, above [`INCIDENT`] an incident.
const DEGRADED: Percent = Percent(200);
const INCIDENT: Percent = Percent(1000);

/// A percentage or a difference of two, in hundredths. Written as a number with a fraction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Percent(i64);

impl Percent {
    /// 0 %.
    pub(super) const ZERO: Self = Self(0);
    /// 100 %.
    pub(super) const ALL: Self = Self(10_000);

    /// `part` of `whole`; `None` of nothing.
    pub(super) fn of(part: u64, whole: u64) -> Option<Self> {
        let (part, whole) = (sum(part), sum(whole));
        (whole > 0).then(|| Self(rounded(part * 10_000, whole)))
    }

    /// The nearest to a fraction between 0 and 1.
    fn of_fraction(fraction: f64) -> Self {
        Self((fraction.clamp(0.0, 1.0) * 10_000.0).round() as i64)
    }

    /// As a number.
    pub(super) fn value(self) -> f64 {
        self.0 as f64 / 100.0
    }
}

impl Serialize for Percent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.value())
    }
}

fn sum(number: u64) -> i128 {
    i128::from(number.min(MAX_SUM))
}

/// `numerator / denominator`, rounded half away from zero.
fn rounded(numerator: i128, denominator: i128) -> i64 {
    let magnitude = (2 * numerator.abs() + denominator) / (2 * denominator);
    (magnitude * numerator.signum()) as i64
}

/// The sums of a slice over a window (telemetry.md §4.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sums {
    /// `L`.
    pub(super) launches: u64,
    /// `J`.
    pub(super) js_errors: u64,
    /// `C`.
    pub(super) crashes: u64,
    /// `S`.
    pub(super) sessions: u64,
    /// `E`: sessions with an error or a crash.
    pub(super) failed: u64,
    /// `EC`: sessions with a crash.
    pub(super) crashed: u64,
    /// `H`.
    pub(super) device_hours: u64,
}

impl Sums {
    /// Failed sessions; 0 without sessions.
    pub(super) fn error_rate(&self) -> Percent {
        Percent::of(self.failed, self.sessions).unwrap_or(Percent::ZERO)
    }

    /// Sessions without a crash; 100 without sessions.
    pub(super) fn crash_free(&self) -> Percent {
        let without = self.sessions.saturating_sub(self.crashed);
        Percent::of(without, self.sessions).unwrap_or(Percent::ALL)
    }

    /// The original's ratio of events to launches.
    pub(super) fn launch_error_rate(&self) -> Option<Percent> {
        let errors = self.js_errors.saturating_add(self.crashes);
        Percent::of(errors, self.launches).map(|rate| rate.min(Percent::ALL))
    }

    /// Change of the error rate from a baseline, in percentage points; 0 if that has no sessions.
    pub(super) fn error_rate_since(&self, baseline: &Self) -> Percent {
        if baseline.sessions == 0 {
            return Percent::ZERO;
        }
        // Without sessions, nothing of one session failed.
        let (e, s) = (sum(self.failed), sum(self.sessions.max(1)));
        let (e0, s0) = (sum(baseline.failed), sum(baseline.sessions));
        Percent(rounded(10_000 * (e * s0 - e0 * s), s * s0))
    }

    /// How bad that is.
    pub(super) fn status(&self) -> Status {
        match self.error_rate() {
            rate if rate > INCIDENT => Status::Incident,
            rate if rate > DEGRADED => Status::Degraded,
            _ => Status::Healthy,
        }
    }

    /// The 95 % Wilson interval of the error rate, if each of `devices` were one trial.
    pub(super) fn error_rate_interval(&self, devices: u64) -> (Percent, Percent) {
        if self.sessions == 0 {
            return (Percent::ZERO, Percent::ALL);
        }
        let share = self.failed as f64 / self.sessions as f64;
        let (low, high) = wilson(share, devices as f64);
        let rate = self.error_rate();
        let low = Percent::of_fraction(low).min(rate);
        (low, Percent::of_fraction(high).max(rate))
    }
}

/// The interval in which the true share lies, of which `share` was seen in `n` trials.
fn wilson(share: f64, n: f64) -> (f64, f64) {
    if n < 1.0 {
        return (0.0, 1.0);
    }
    let z2 = Z_95 * Z_95;
    let centre = share + z2 / (2.0 * n);
    let spread = Z_95 * (share * (1.0 - share) / n + z2 / (4.0 * n * n)).sqrt();
    let scale = 1.0 + z2 / n;
    ((centre - spread) / scale, (centre + spread) / scale)
}

impl AddAssign for Sums {
    fn add_assign(&mut self, other: Self) {
        let add = |a: &mut u64, b: u64| *a = a.saturating_add(b);
        add(&mut self.launches, other.launches);
        add(&mut self.js_errors, other.js_errors);
        add(&mut self.crashes, other.crashes);
        add(&mut self.sessions, other.sessions);
        add(&mut self.failed, other.failed);
        add(&mut self.crashed, other.crashed);
        add(&mut self.device_hours, other.device_hours);
    }
}

impl Sum for Sums {
    fn sum<I: Iterator<Item = Self>>(sums: I) -> Self {
        sums.fold(Self::default(), |mut total, sums| {
            total += sums;
            total
        })
    }
}

/// Health of a slice; the worst is the greatest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Status {
    /// At most 2 % of sessions failed.
    Healthy,
    /// More than 2 %.
    Degraded,
    /// More than 10 %.
    Incident,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sums() -> impl Strategy<Value = Sums> {
        let counts = (
            0..1_u64 << 40,
            0..1_u64 << 40,
            0..1_u64 << 40,
            0..1_u64 << 40,
        );
        (counts, 0.0..=1.0, 0.0..=1.0).prop_map(|((l, j, c, s), failed, crashed)| {
            let failed = (s as f64 * failed) as u64;
            Sums {
                launches: l,
                js_errors: j,
                crashes: c,
                sessions: s,
                failed,
                crashed: (failed as f64 * crashed) as u64,
                device_hours: s,
            }
        })
    }

    fn rate(failed: u64, sessions: u64) -> Sums {
        Sums {
            sessions,
            failed,
            ..Sums::default()
        }
    }

    #[test]
    fn rounds_half_away_from_zero() {
        // 1/800 = 0.125 %, a double that lies exactly between two.
        assert_eq!(rate(1, 800).error_rate(), Percent(13));
        assert_eq!(rate(0, 800).error_rate_since(&rate(1, 800)), Percent(-13));
        assert_eq!(rate(2, 3).error_rate(), Percent(6667));
    }

    #[test]
    fn numbers_are_written_with_a_fraction() {
        let text = |percent: Percent| serde_json::to_string(&percent).expect("serialises");
        assert_eq!(text(Percent::ALL), "100.0");
        assert_eq!(text(Percent::ZERO), "0.0");
        assert_eq!(text(Percent(-1)), "-0.01");
    }

    #[test]
    fn nothing_is_healthy() {
        let none = Sums::default();
        assert_eq!(none.error_rate(), Percent::ZERO);
        assert_eq!(none.crash_free(), Percent::ALL);
        assert_eq!(none.launch_error_rate(), None);
        assert_eq!(none.status(), Status::Healthy);
        assert_eq!(none.error_rate_interval(0), (Percent::ZERO, Percent::ALL));
        assert_eq!(rate(1, 2).error_rate_since(&none), Percent::ZERO);
    }

    #[test]
    fn thresholds_are_strict() {
        assert_eq!(rate(2, 100).status(), Status::Healthy);
        assert_eq!(rate(201, 10_000).status(), Status::Degraded);
        assert_eq!(rate(10, 100).status(), Status::Degraded);
        assert_eq!(rate(1001, 10_000).status(), Status::Incident);
    }

    #[test]
    fn wilson_agrees_with_published_values() {
        // 10 of 100, and 0 of 10: Wilson (1927) gives 5.52 to 17.44 %, and 0 to 27.75 %.
        let (low, high) = rate(10, 100).error_rate_interval(100);
        assert_eq!((low, high), (Percent(552), Percent(1744)));
        let (low, high) = rate(0, 10).error_rate_interval(10);
        assert_eq!((low, high), (Percent(0), Percent(2775)));
    }

    proptest! {
        #[test]
        fn rates_are_shares(sums in sums(), devices in 0..1_u64 << 40) {
            let all = Percent::ZERO..=Percent::ALL;
            let rate = sums.error_rate();
            prop_assert!(all.contains(&rate) && all.contains(&sums.crash_free()));
            prop_assert!(sums.launch_error_rate().is_none_or(|rate| all.contains(&rate)));
            let (low, high) = sums.error_rate_interval(devices);
            prop_assert!(Percent::ZERO <= low && low <= rate && rate <= high && high <= Percent::ALL);
        }

        #[test]
        fn a_rate_is_the_nearest_hundredth(sums in sums()) {
            prop_assume!(sums.sessions > 0);
            let exact = 100.0 * sums.failed as f64 / sums.sessions as f64;
            prop_assert!((sums.error_rate().value() - exact).abs() <= 0.005 + 1e-9);
        }

        #[test]
        fn a_change_turns_its_sign_with_the_direction(a in sums(), b in sums()) {
            prop_assume!(a.sessions > 0 && b.sessions > 0);
            let (there, back) = (a.error_rate_since(&b), b.error_rate_since(&a));
            prop_assert_eq!(there.0, -back.0);
            let shown = a.error_rate().0 - b.error_rate().0;
            prop_assert!((there.0 - shown).abs() <= 1, "what is shown differs by a hundredth at most");
        }

        #[test]
        fn more_devices_narrow_the_interval(sums in sums(), devices in 1..1_u64 << 30) {
            let (low, high) = sums.error_rate_interval(devices);
            let (closer_low, closer_high) = sums.error_rate_interval(devices * 4);
            prop_assert!(low <= closer_low && closer_high <= high);
        }

        #[test]
        fn a_union_lies_between_its_parts(a in sums(), b in sums()) {
            prop_assume!(a.sessions > 0 && b.sessions > 0);
            let union: Sums = [a, b].into_iter().sum();
            let rates = [a.error_rate(), b.error_rate()];
            let (least, most) = (rates[0].min(rates[1]), rates[0].max(rates[1]));
            prop_assert!(least <= union.error_rate() && union.error_rate() <= most);
        }
    }
}
