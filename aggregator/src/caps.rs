//! Caps on what one project can bring new into an hour: custom names
//! (telemetry.md §7) and flag maps.
//!
//! What is over the cap is stored under a name that stands for all of it. The
//! decision must come out the same when a batch is built again after a crash,
//! because its views may be filled then from rows that are raw already. So the
//! raw table is the register: before the first decision on an hour, what raw
//! has of it is learnt. If a batch's rows of an hour are in raw, each name that
//! was admitted is found there and is admitted again, and each that was not
//! still finds the hour full. If they are not in raw, they are nowhere, and the
//! decision is free. Aggregators that share a project's hour do not see each
//! other's newest names, so the cap is exact for one and soft by what the
//! others admitted meanwhile.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::rows::{HealthRows, ProjectHour, Seen};

/// Distinct custom names of a project in an hour, and as many flag maps.
pub const MAX_PER_HOUR: usize = 1_000;
/// When more hours are known, all are forgotten and learnt again.
const MAX_HOURS: usize = 20_000;

/// What raw has of one hour of a project.
#[derive(Debug, Default)]
pub struct Admitted {
    /// Custom names.
    pub names: HashSet<Box<str>>,
    /// Flag maps.
    pub maps: HashSet<u64>,
}

/// The register of this process.
#[derive(Debug)]
pub struct Caps {
    max: usize,
    hours: HashMap<ProjectHour, Admitted>,
}

impl Default for Caps {
    fn default() -> Self {
        Self::new(MAX_PER_HOUR)
    }
}

impl Caps {
    /// An empty register that admits `max` names, and as many maps, an hour.
    pub fn new(max: usize) -> Self {
        Self {
            max,
            hours: HashMap::new(),
        }
    }

    /// Those hours of `rows` that must be learnt before [`rule`](Self::rule).
    pub fn unknown(&mut self, rows: &HealthRows) -> Vec<ProjectHour> {
        if self.hours.len() > MAX_HOURS {
            self.hours.clear();
        }
        let used = |seen: &Seen| !seen.names.is_empty() || !seen.maps.is_empty();
        let hours = rows.hours().iter().filter(|(_, seen)| used(seen));
        hours
            .map(|(slot, _)| *slot)
            .filter(|slot| !self.hours.contains_key(slot))
            .collect()
    }

    /// Takes in what raw has of an hour.
    pub fn learn(&mut self, slot: ProjectHour, admitted: Admitted) {
        let known = self.hours.entry(slot).or_default();
        known.names.extend(admitted.names);
        known.maps.extend(admitted.maps);
    }

    /// Forgets everything: what was admitted may never have been stored.
    pub fn forget(&mut self) {
        self.hours.clear();
    }

    /// Admits what there is room for; returns what is over, by hour.
    pub fn rule(&mut self, rows: &HealthRows) -> BTreeMap<ProjectHour, Seen> {
        let mut over = BTreeMap::new();
        for (slot, seen) in rows.hours() {
            let admitted = self.hours.entry(*slot).or_default();
            let names = seen.names.iter().filter(|key| {
                let name = rows.name(**key);
                !admitted.names.contains(name)
                    && (admitted.names.len() >= self.max || !admitted.names.insert(name.into()))
            });
            let names = names.copied().collect();
            let maps = seen.maps.iter().filter(|id| {
                !admitted.maps.contains(id)
                    && (admitted.maps.len() >= self.max || !admitted.maps.insert(**id))
            });
            let refused = Seen {
                names,
                maps: maps.copied().collect(),
            };
            if !refused.names.is_empty() || !refused.maps.is_empty() {
                over.insert(*slot, refused);
            }
        }
        over
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sluice_schema::id::{FrameId, ProjectId};
    use sluice_schema::wire::{Scratch, health};

    use super::*;
    use crate::flag_maps::FlagMaps;
    use crate::places::Origin;

    /// A batch of custom events with these names, each under a flag map of its own.
    fn rows(names: &[u16]) -> HealthRows {
        let events: Vec<_> = names
            .iter()
            .map(|n| serde_json::json!({"type": "custom", "name": n, "flagStates": {"n": n}}))
            .collect();
        let body = serde_json::json!({
            "projectSlug": "p", "deviceId": "d", "platform": "ios", "runtimeVersion": "1",
            "events": events,
        });
        let mut scratch = Scratch::default();
        let text = body.to_string();
        let batch = health::decode(text.as_bytes(), &mut scratch).unwrap();
        let origin = Origin {
            frame: FrameId::new(),
            offset: 0,
            first_index: 0,
            project: ProjectId(1),
            received_at_us: 0,
        };
        let mut rows = HealthRows::default();
        rows.push(&origin, &batch, &mut FlagMaps::default());
        rows
    }

    const HOUR: ProjectHour = ProjectHour {
        project: 1,
        hour: 0,
    };

    fn refused(caps: &mut Caps, rows: &HealthRows) -> (Vec<String>, Vec<u64>) {
        let over = caps.rule(rows).remove(&HOUR).unwrap_or_default();
        let names = over.names.iter().map(|key| rows.name(*key).to_owned());
        (names.collect(), over.maps.into_iter().collect())
    }

    /// What raw has of the batch once it is stored.
    fn stored(rows: &HealthRows, refused: &(Vec<String>, Vec<u64>)) -> Admitted {
        let seen = &rows.hours()[&HOUR];
        let names = seen.names.iter().map(|key| rows.name(*key));
        let maps = seen.maps.iter().copied();
        Admitted {
            names: names
                .filter(|name| !refused.0.iter().any(|r| r == name))
                .map(Into::into)
                .collect(),
            maps: maps.filter(|id| !refused.1.contains(id)).collect(),
        }
    }

    proptest! {
        #[test]
        fn a_stored_batch_is_ruled_the_same_again(
            before in proptest::collection::vec(0_u16..30, 0..20),
            names in proptest::collection::vec(0_u16..30, 1..20),
        ) {
            let mut caps = Caps::new(10);
            let earlier = rows(&before);
            let over_earlier = refused(&mut caps, &earlier);
            let batch = rows(&names);
            let over = refused(&mut caps, &batch);

            let mut successor = Caps::new(10);
            prop_assert_eq!(successor.unknown(&batch), vec![HOUR]);
            if !before.is_empty() {
                successor.learn(HOUR, stored(&earlier, &over_earlier));
            }
            successor.learn(HOUR, stored(&batch, &over));
            prop_assert_eq!(refused(&mut successor, &batch), over);
        }

        #[test]
        fn no_more_is_admitted_than_the_cap(names in proptest::collection::vec(0_u16..100, 1..80)) {
            let batch = rows(&names);
            let over = refused(&mut Caps::new(10), &batch);
            let distinct: HashSet<_> = names.iter().collect();
            prop_assert_eq!(over.0.len(), distinct.len().saturating_sub(10));
            prop_assert_eq!(over.1.len(), distinct.len().saturating_sub(10));
        }
    }

    #[test]
    fn what_is_over_is_replaced_and_not_put_into_the_dictionary() {
        let mut batch = rows(&[1, 2, 3]);
        let over = Caps::new(2).rule(&batch);
        batch.apply(&over);
        assert_eq!(batch.new_maps(&over).len(), 2);
        let id = crate::batch::BatchId {
            source: "t".into(),
            partition: 0,
            first: 0,
            last: 0,
        };
        let block = batch.encode(&id);
        let overflow = crate::rows::OVERFLOW_MAP.to_le_bytes();
        let overflows = block.windows(8).filter(|bytes| *bytes == overflow);
        assert_eq!(overflows.count(), 1);
    }
}
