//! Sets of devices that are small, can be put together anywhere, and say about
//! how many there are.
//!
//! A device has a place: one of 16,384 columns, and a row in it, of which the
//! first takes half of all devices, the second a quarter, and so on. A set of
//! devices is the set of their places; that of the union of two is the union of
//! theirs. From how many places are taken follows how many devices there are:
//! nearly every device has a place of its own while there are few, and the more
//! there are, the rarer is a place that is free. The standard error is 0.54 % at
//! any size and nothing below some hundreds, so it is within the 4 % of flag rows
//! (telemetry.md §4.1) always; and twice as many devices are 16,384 places more,
//! so that a set stays small.

use std::sync::LazyLock;

/// The place of a `device`, a number below [`PLACES`], as an expression of SQL.
pub const PLACE: &str = "toUInt32(bitAnd(intHash64(device), 16383) + 16384 * (bitCount(bitXor(\
     bitShiftRight(intHash64(device), 14), bitShiftRight(intHash64(device), 14) - 1)) - 1))";

const COLUMNS: usize = 16_384;
const ROWS: usize = 64;
/// How many places there are.
pub const PLACES: usize = COLUMNS * ROWS;

/// Numbers of devices up to this one are in the table one by one.
const ONE_BY_ONE: u32 = 256;
/// From there on, each is this many times the one before.
const STEP: f64 = 1.005;
const MOST: f64 = 1e12;

/// Numbers of devices, with how many places they take on average.
static TABLE: LazyLock<Vec<(f64, f64)>> = LazyLock::new(|| {
    let few = (0..=ONE_BY_ONE).map(f64::from);
    let many = std::iter::successors(Some(f64::from(ONE_BY_ONE) * STEP), |n| Some(n * STEP));
    let numbers = few.chain(many.take_while(|n| *n < MOST));
    numbers.map(|n| (taken(n), n)).collect()
});

/// How many places so many devices take on average.
fn taken(devices: f64) -> f64 {
    let columns = COLUMNS as f64;
    let of_row = |row: i32| {
        let share = 0.5_f64.powi(row) / columns;
        columns * -(devices * (-share).ln_1p()).exp_m1()
    };
    (1..=ROWS as i32).map(of_row).sum()
}

/// About how many devices take so many places.
pub fn devices(places: u64) -> u64 {
    let places = places as f64;
    let table = &*TABLE;
    let above = table.partition_point(|(taken, _)| *taken < places);
    let (Some((high, most)), Some((low, least))) =
        (table.get(above), table.get(above.saturating_sub(1)))
    else {
        return MOST as u64;
    };
    let part = if high > low {
        (places - low) / (high - low)
    } else {
        0.0
    };
    (least + part * (most - least)).round() as u64
}

/// Counts the places of sets that overlap.
pub struct Counter {
    /// Of each place the number of the count that last met it.
    met: Vec<u32>,
    count: u32,
}

impl Default for Counter {
    fn default() -> Self {
        Self {
            met: vec![0; PLACES],
            count: 0,
        }
    }
}

impl Counter {
    /// Leaves each place in a set once.
    pub fn dedup(&mut self, places: &mut Vec<u32>) {
        self.begin();
        places.retain(|place| self.is_new(*place));
    }

    /// About how many devices there are in some sets together.
    pub fn devices<'a>(&mut self, sets: impl IntoIterator<Item = &'a [u32]>) -> u64 {
        self.begin();
        let mut places = 0;
        for set in sets {
            places += set.iter().filter(|place| self.is_new(**place)).count();
        }
        devices(places as u64)
    }

    fn begin(&mut self) {
        self.count = self.count.wrapping_add(1);
        if self.count == 0 {
            self.met.fill(0);
            self.count = 1;
        }
    }

    fn is_new(&mut self, place: u32) -> bool {
        let met = self.met.get_mut(place as usize);
        met.is_some_and(|met| std::mem::replace(met, self.count) != self.count)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    /// A hash of our own: any will do.
    fn hash(n: u64) -> u64 {
        let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        n ^ (n >> 31)
    }

    fn place(device: u64) -> u32 {
        let hash = hash(device.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let row = (hash >> 14).trailing_zeros().min(63);
        (hash & 16_383) as u32 + 16_384 * row
    }

    #[test]
    fn devices_are_counted_within_the_promise_of_flag_rows() {
        for n in [1, 2, 10, 100, 1_000, 20_000, 300_000, 3_000_000_u64] {
            for seed in 0..3_u64 {
                let places: Vec<u32> = (0..n).map(|d| place(d + (seed << 40))).collect();
                let counted = Counter::default().devices([&places[..]]) as f64;
                let off = (counted - n as f64).abs() / n as f64;
                assert!(off < 0.025, "{n}: {counted}");
                assert!(n > 10 || off < f64::EPSILON, "{n}: {counted}");
            }
        }
    }

    #[test]
    fn there_is_an_answer_for_any_number_of_places() {
        let mut last = 0;
        for places in (0..PLACES as u64).step_by(97) {
            let now = devices(places);
            assert!(now >= last, "{places}");
            last = now;
        }
        assert_eq!([0, 1, 2, 50].map(devices), [0, 1, 2, 50]);
        assert_eq!(devices(u64::MAX), MOST as u64);
    }

    proptest! {
        #[test]
        fn what_is_in_several_sets_counts_once(
            sets in proptest::collection::vec(proptest::collection::vec(0..PLACES as u32, 0..50), 0..6),
        ) {
            let mut counter = Counter::default();
            let union: HashSet<u32> = sets.iter().flatten().copied().collect();
            let counted = counter.devices(sets.iter().map(Vec::as_slice));
            prop_assert_eq!(counted, devices(union.len() as u64));
            for mut set in sets {
                let distinct: HashSet<u32> = set.iter().copied().collect();
                counter.dedup(&mut set);
                prop_assert_eq!(set.len(), distinct.len());
            }
        }
    }
}
