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
