//! Which value to blame: the one whose devices fail most beside those with
//! another value (telemetry.md §6).

use std::collections::BTreeMap;

/// Fewer failed devices blame nobody.
const LEAST_FAILED: u64 = 5;
const LEAST_LIFT: f64 = 1.5;

/// Devices with one value of something, in a channel and an hour.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Slice<K> {
    pub(super) value: K,
    pub(super) devices: u64,
    pub(super) failed: u64,
}

/// The value with the highest lift, which is P(failed given the value) by
/// P(failed given another value of the same thing); none where no lift is high
/// enough. `thing` tells what a value is one of, `suspect` whether it may be
/// blamed at all: if not, it still is beside the others.
pub(super) fn blamed<K: Clone, T: Ord>(
    slices: &[Slice<K>],
    thing: impl Fn(&K) -> T,
    suspect: impl Fn(&K) -> bool,
) -> Option<K> {
    let mut totals: BTreeMap<T, (u64, u64)> = BTreeMap::new();
    for slice in slices {
        let (devices, failed) = totals.entry(thing(&slice.value)).or_default();
        *devices += slice.devices;
        *failed += slice.failed;
    }
    let suspects = slices.iter().filter(|slice| suspect(&slice.value));
    let lifts = suspects.filter_map(|slice| {
        let lift = slice.lift(*totals.get(&thing(&slice.value))?)?;
        (slice.failed >= LEAST_FAILED && lift >= LEAST_LIFT).then_some((slice, lift))
    });
    // Of equal ones the first, so that the same data always blame the same.
    let highest = lifts.reduce(|best, next| if above(next, best) { next } else { best });
    highest.map(|(slice, _)| slice.value.clone())
}

fn above<K>(a: (&Slice<K>, f64), b: (&Slice<K>, f64)) -> bool {
    a.1 > b.1 || (a.1 >= b.1 && a.0.failed > b.0.failed)
}

impl<K> Slice<K> {
    /// Beside the rest of all devices and of all failed ones; none without a rest.
    fn lift(&self, (devices, failed): (u64, u64)) -> Option<f64> {
        let (others, others_failed) = (devices - self.devices, failed - self.failed);
        if others == 0 || self.devices == 0 {
            return None;
        }
        // One division, so that a lift of 1.5 is 1.5. Beside nobody who failed it is infinite.
        Some((self.failed * others) as f64 / (self.devices * others_failed) as f64)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Flag = (&'static str, &'static str);

    fn slice(value: Flag, devices: u64, failed: u64) -> Slice<Flag> {
        Slice {
            value,
            devices,
            failed,
        }
    }

    fn guilty(slices: &[Slice<Flag>]) -> Option<Flag> {
        blamed(slices, |(key, _)| *key, |_| true)
    }

    #[test]
    fn the_guilty_value_is_blamed_and_not_the_commonest() {
        let slices = [
            slice(("everywhere", "on"), 900, 55),
            slice(("everywhere", "off"), 100, 5),
            slice(("new-cart", "on"), 100, 50),
            slice(("new-cart", "off"), 900, 10),
        ];
        assert_eq!(guilty(&slices), Some(("new-cart", "on")));
    }

    #[test]
    fn few_failures_small_lifts_and_lone_values_blame_nobody() {
        let four = [slice(("a", "on"), 10, 4), slice(("a", "off"), 100, 0)];
        assert_eq!(guilty(&four), None);
        let five = [slice(("a", "on"), 10, 5), slice(("a", "off"), 100, 0)];
        assert_eq!(guilty(&five), Some(("a", "on")));
        let small = [slice(("a", "on"), 100, 14), slice(("a", "off"), 100, 10)];
        assert_eq!(guilty(&small), None);
        let enough = [slice(("a", "on"), 100, 15), slice(("a", "off"), 100, 10)];
        assert_eq!(guilty(&enough), Some(("a", "on")));
        assert_eq!(guilty(&[slice(("a", "on"), 100, 100)]), None);
        assert_eq!(guilty(&[]), None);
    }

    #[test]
    fn of_equal_lifts_the_one_with_more_failures_is_blamed() {
        let slices = [
            slice(("a", "on"), 10, 6),
            slice(("a", "off"), 10, 0),
            slice(("b", "on"), 12, 7),
            slice(("b", "off"), 8, 0),
        ];
        assert_eq!(guilty(&slices), Some(("b", "on")));
    }

    #[test]
    fn what_is_no_suspect_is_beside_the_others() {
        let slices = [
            slice(("a", "unknown"), 10, 10),
            slice(("a", "on"), 10, 6),
            slice(("a", "off"), 90, 0),
        ];
        let suspect = |(_, value): &Flag| *value != "unknown";
        let of = |suspect: &dyn Fn(&Flag) -> bool| blamed(&slices, |(key, _)| *key, suspect);
        assert_eq!(of(&|_| true), Some(("a", "unknown")));
        assert_eq!(of(&suspect), Some(("a", "on")));
    }

    proptest! {
        #[test]
        fn whoever_is_blamed_fails_more_than_the_rest(
            counts in proptest::collection::vec((1_u64..1_000, 0_u64..1_000), 0..8),
        ) {
            let slices: Vec<Slice<usize>> = counts.iter().enumerate().map(|(value, (devices, failed))| Slice {
                value, devices: *devices, failed: *failed.min(devices),
            }).collect();
            if let Some(value) = blamed(&slices, |_| (), |_| true) {
                let (of, rest): (Vec<_>, Vec<_>) = slices.iter().partition(|slice| slice.value == value);
                let share = |slices: &[&Slice<usize>]| {
                    let sum = |of: fn(&Slice<usize>) -> u64| slices.iter().map(|slice| of(slice)).sum::<u64>() as f64;
                    sum(|slice| slice.failed) / sum(|slice| slice.devices)
                };
                prop_assert!(of[0].failed >= 5);
                prop_assert!(share(&of) >= (1.5 - 1e-9) * share(&rest));
            }
        }
    }
}
