//! Caps on what one project can bring new into an hour of evaluation counts:
//! flag keys, and values of each flag. A flag whose value is another one on
//! every device would else be a row for every device and hour.
//!
//! What is over a cap is counted under a name that stands for all of it. As in
//! [`crate::caps`], which says why that is enough, the raw table is the register:
//! what it has of an hour is learnt before the first decision on it, so that a
//! batch that is built again is decided in the same way.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use super::rows::{EvaluationRows, Pair};
use crate::rows::ProjectHour;

/// Distinct flag keys of a project in an hour.
pub const MAX_FLAGS: usize = 5_000;
/// Distinct values of a flag in an hour.
pub const MAX_VALUES: usize = 250;
/// The value of what is over: JSON, and no variation. A device that reports it
/// reports a value like any other, of which it comes out the same.
pub const OTHER_VALUE: &str = "\"__other__\"";
/// The key of what is over: no flag has it, and a device that reports it has
/// its value forgotten.
pub const OTHER_FLAG: &str = "";
/// When more pairs are known, all are forgotten and learnt again: some 20 MB.
const MAX_PAIRS: usize = 500_000;

/// Pairs of a flag key and a value, by what they are counted as.
pub type Over = BTreeMap<ProjectHour, HashMap<Pair, Instead>>;

/// What a pair is counted as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instead {
    /// Another value of the flag.
    OtherValue,
    /// Another flag.
    OtherFlag,
}

/// The register of this process. Texts are hashes.
#[derive(Debug)]
pub struct PairCaps {
    max_flags: usize,
    max_values: usize,
    hours: HashMap<ProjectHour, HashMap<u64, HashSet<u64>>>,
    pairs: usize,
}

impl Default for PairCaps {
    fn default() -> Self {
        Self::new(MAX_FLAGS, MAX_VALUES)
    }
}

impl PairCaps {
    /// An empty register that admits so many flags an hour, and values of each.
    pub fn new(max_flags: usize, max_values: usize) -> Self {
        Self {
            max_flags,
            max_values,
            hours: HashMap::new(),
            pairs: 0,
        }
    }

    /// Those hours of a batch that must be learnt before [`rule`](Self::rule).
    pub fn unknown(&mut self, pairs: &BTreeSet<(ProjectHour, Pair)>) -> Vec<ProjectHour> {
        if self.pairs > MAX_PAIRS {
            self.forget();
        }
        let slots: BTreeSet<ProjectHour> = pairs.iter().map(|(slot, _)| *slot).collect();
        let unknown = |slot: &ProjectHour| !self.hours.contains_key(slot);
        slots.into_iter().filter(unknown).collect()
    }

    /// Takes in the pairs that raw has of an hour.
    pub fn learn(&mut self, slot: ProjectHour, pairs: &[(String, String)]) {
        self.hours.entry(slot).or_default();
        for (flag, value) in pairs {
            self.admit(slot, flag, value, usize::MAX, usize::MAX);
        }
    }

    /// Forgets everything: what was admitted may never have been stored.
    pub fn forget(&mut self) {
        self.hours.clear();
        self.pairs = 0;
    }

    /// Admits what there is room for; returns what is over.
    pub fn rule(&mut self, rows: &EvaluationRows, pairs: &BTreeSet<(ProjectHour, Pair)>) -> Over {
        let mut over = Over::new();
        for (slot, pair) in pairs {
            let (flag, value) = rows.texts(*pair);
            // What stands for what is over is never one of those that are not.
            let refused = match flag {
                OTHER_FLAG => Some(Instead::OtherFlag),
                _ => self.admit(*slot, flag, value, self.max_flags, self.max_values),
            };
            if let Some(instead) = refused {
                over.entry(*slot).or_default().insert(*pair, instead);
            }
        }
        over
    }

    fn admit(
        &mut self,
        slot: ProjectHour,
        flag: &str,
        value: &str,
        max_flags: usize,
        max_values: usize,
    ) -> Option<Instead> {
        let flags = self.hours.entry(slot).or_default();
        let flag = hash(flag);
        if flags.len() >= max_flags && !flags.contains_key(&flag) {
            return Some(Instead::OtherFlag);
        }
        let values = flags.entry(flag).or_default();
        let value = hash(value);
        if values.len() >= max_values && !values.contains(&value) {
            return Some(Instead::OtherValue);
        }
        self.pairs += usize::from(values.insert(value));
        None
    }
}

fn hash(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;
    use sluice_schema::id::{FrameId, ProjectId};
    use sluice_schema::wire::{Scratch, evaluations};

    use super::*;
    use crate::places::Origin;

    const MAX: (usize, usize) = (3, 4);

    /// A batch in which these values of these flags are reported, in an hour each.
    fn rows(reports: &[(u8, u8, u8)]) -> EvaluationRows {
        let mut rows = EvaluationRows::default();
        for (hour, flag, value) in reports {
            let key = if *flag == 0 {
                OTHER_FLAG.to_owned()
            } else {
                format!("flag-{flag}")
            };
            let value = if *value == 0 {
                json!("__other__")
            } else {
                json!(value)
            };
            let entry = json!({"flagKey": key, "variationValue": value});
            let body = json!({"evaluations": [entry]}).to_string();
            let mut scratch = Scratch::default();
            let batch = evaluations::decode(body.as_bytes(), &mut scratch).expect("a report");
            let origin = Origin {
                frame: FrameId::new(),
                offset: 0,
                first_index: 0,
                project: ProjectId(1),
                received_at_us: i64::from(*hour) * 3_600_000_000,
            };
            rows.push(&origin, &batch);
        }
        rows
    }

    /// What a batch is stored as, by hour.
    fn stored(caps: &mut PairCaps, rows: &mut EvaluationRows) -> Vec<(u32, String, String)> {
        let pairs = rows.pairs();
        let over = caps.rule(rows, &pairs);
        rows.apply(&over);
        let pairs = rows.pairs().into_iter();
        let text = pairs.map(|(slot, pair)| {
            let (flag, value) = rows.texts(pair);
            (slot.hour, flag.to_owned(), value.to_owned())
        });
        text.collect()
    }

    fn report() -> impl Strategy<Value = (u8, u8, u8)> {
        (0..3_u8, 0..6_u8, 0..9_u8)
    }

    proptest! {
        #[test]
        fn an_hour_has_no_more_than_its_caps(batches in proptest::collection::vec(
            proptest::collection::vec(report(), 1..40), 1..6,
        )) {
            let mut caps = PairCaps::new(MAX.0, MAX.1);
            let mut all: BTreeMap<(u32, String), BTreeSet<String>> = BTreeMap::new();
            for batch in batches {
                for (hour, flag, value) in stored(&mut caps, &mut rows(&batch)) {
                    all.entry((hour, flag)).or_default().insert(value);
                }
            }
            for hour in 0..3 {
                let of_hour = all.iter().filter(|((of, _), _)| *of == hour);
                let named = of_hour.filter(|((_, flag), _)| flag != OTHER_FLAG);
                let values: Vec<usize> = named.map(|(_, values)| {
                    values.iter().filter(|value| *value != OTHER_VALUE).count()
                }).collect();
                prop_assert!(values.len() <= MAX.0 && values.iter().all(|n| *n <= MAX.1), "{:?}", all);
            }
        }

        /// Where all of a batch, or nothing of it, is in raw.
        #[test]
        fn a_batch_that_is_built_again_is_the_same(
            before in proptest::collection::vec(report(), 0..60),
            batch in proptest::collection::vec(report(), 1..60),
            is_there in any::<bool>(),
        ) {
            let mut caps = PairCaps::new(MAX.0, MAX.1);
            let mut raw = stored(&mut caps, &mut rows(&before));
            let first = stored(&mut caps, &mut rows(&batch));
            if is_there {
                raw.extend(first.clone());
            }
            // Another process takes over.
            let mut again = PairCaps::new(MAX.0, MAX.1);
            let built = rows(&batch);
            for slot in again.unknown(&built.pairs()) {
                let of_slot = raw.iter().filter(|(hour, flag, _)| *hour == slot.hour && flag != OTHER_FLAG);
                let pairs: Vec<_> = of_slot.map(|(_, flag, value)| (flag.clone(), value.clone())).collect();
                again.learn(slot, &pairs);
            }
            prop_assert_eq!(stored(&mut again, &mut rows(&batch)), first);
        }
    }

    #[test]
    fn a_full_register_is_learnt_again() {
        let mut caps = PairCaps::default();
        let batch = rows(&[(0, 1, 1)]);
        let slot = caps.unknown(&batch.pairs());
        assert_eq!(slot.len(), 1);
        caps.learn(slot[0], &[]);
        assert!(caps.unknown(&batch.pairs()).is_empty());
        caps.pairs = MAX_PAIRS + 1;
        assert_eq!(caps.unknown(&batch.pairs()), slot);
    }
}
