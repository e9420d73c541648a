//! What is known of flag maps: their ids by the form in which devices send
//! them, and which of them the dictionary in the store has.
//!
//! Raw rows hold a map's id alone; a map is stored before the first rows that
//! name it, and again once a day, so that its last use is known.

use std::collections::HashMap;

use sluice_schema::wire::health::HealthEvent;

use crate::rows::{HOURS_PER_DAY, NewMap, ProjectHour};

/// When there are more, all is forgotten and learnt again.
const MAX_KNOWN: usize = 200_000;

/// A worker's knowledge of flag maps.
#[derive(Default)]
pub struct FlagMaps {
    ids: HashMap<u128, u64>,
    /// The newest day, since 1970, on which a project's map was stored.
    stored: HashMap<(u64, u64), u32>,
}

impl FlagMaps {
    /// The id of an event's flag map; 0 where it sent none.
    pub fn id(&mut self, event: HealthEvent<'_>) -> u64 {
        let Some(digest) = event.flag_digest() else {
            return 0;
        };
        if let Some(id) = self.ids.get(&digest) {
            return *id;
        }
        if self.ids.len() >= MAX_KNOWN {
            self.ids.clear();
        }
        let id = event.flag_states().id();
        self.ids.insert(digest, id);
        id
    }

    /// Whether the dictionary has the map, as used on this day or later.
    pub fn is_stored(&self, slot: ProjectHour, id: u64) -> bool {
        let stored = self.stored.get(&(slot.project, id));
        stored.is_some_and(|day| *day >= slot.hour / HOURS_PER_DAY)
    }

    /// The dictionary has these maps now.
    pub fn note_stored(&mut self, maps: &[NewMap]) {
        if self.stored.len() >= MAX_KNOWN {
            self.stored.clear();
        }
        for map in maps {
            let known = self.stored.entry((map.project, map.id)).or_default();
            *known = map.day.max(*known);
        }
    }
}
