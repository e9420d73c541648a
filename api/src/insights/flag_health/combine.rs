//! Slices of flags, put together from sums by flag map: pure.
//!
//! What always holds: a row is in the slice of every flag that its map holds,
//! once; sums of a slice are those of its rows, and its devices the union of
//! theirs; a slice without a launch is left out (Rule F).

use std::collections::HashMap;

use sluice_schema::clickhouse::places::Counter;

use super::catalogue::{Flag, Slot};
use super::model::{Devices, Grain, Question, Slice, SliceKey, Slices};
use crate::insights::metrics::Sums;

/// What was counted under one flag map.
#[derive(Clone, Debug, Default)]
pub(super) struct MapRow {
    pub(super) channel: String,
    pub(super) runtime_version: String,
    /// Empty where the question is not about updates, or the device said none.
    pub(super) update_uuid: String,
    pub(super) flag_map: u64,
    pub(super) sums: Sums,
    /// Places of all devices; the same one may be there twice.
    pub(super) devices: Vec<u32>,
    /// Of those with an error or a crash.
    pub(super) errored: Vec<u32>,
}

/// What maps hold of some flags, by the place of the flag among them.
#[derive(Debug, Default)]
pub(super) struct Held(HashMap<u64, Vec<(usize, Slot)>>);

impl Held {
    /// From the (key, value) pairs of each map. A value is a slot however it is spelt.
    pub(super) fn new(
        flags: &[Flag],
        maps: impl IntoIterator<Item = (u64, Vec<(String, String)>)>,
    ) -> Self {
        let places = flags.iter().enumerate();
        let places: HashMap<&str, usize> = places
            .map(|(place, flag)| (flag.key.as_str(), place))
            .collect();
        let mut slots: HashMap<(String, String), (usize, Slot)> = HashMap::new();
        let mut slot = |pair: (String, String)| {
            let place = *places.get(pair.0.as_str())?;
            let known = slots
                .entry(pair)
                .or_insert_with_key(|(_, value)| (place, flags[place].slot(value)));
            Some(known.clone())
        };
        let maps = maps
            .into_iter()
            .map(|(map, pairs)| (map, pairs.into_iter().filter_map(&mut slot).collect()));
        Self(maps.collect())
    }

    fn of(&self, map: u64) -> &[(usize, Slot)] {
        self.0.get(&map).map_or(&[], Vec::as_slice)
    }
}

/// A [`SliceKey`] that borrows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key<'r> {
    flag: usize,
    slot: &'r Slot,
    channel: &'r str,
    runtime_version: &'r str,
    update_uuid: &'r str,
}

impl From<Key<'_>> for SliceKey {
    fn from(key: Key<'_>) -> Self {
        Self {
            flag: key.flag,
            slot: key.slot.clone(),
            channel: key.channel.to_owned(),
            runtime_version: key.runtime_version.to_owned(),
            update_uuid: key.update_uuid.to_owned(),
        }
    }
}

/// The slices of a question, of rows in its window and `before` it.
pub(super) fn slices(
    question: &Question,
    held: &Held,
    mut rows: Vec<MapRow>,
    before: &[MapRow],
) -> Slices {
    let mut counter = Counter::default();
    // A row is met by as many slices as its map has flags.
    for row in &mut rows {
        counter.dedup(&mut row.devices);
        counter.dedup(&mut row.errored);
    }
    let mut slices = Slices::default();
    let mut is_shown = vec![false; rows.len()];
    for (key, numbers) in by_slice(question.grain, held, &rows) {
        let members = || numbers.iter().map(|number| &rows[*number]);
        let sums: Sums = members().map(|row| row.sums).sum();
        if sums.launches == 0 {
            continue;
        }
        for number in &numbers {
            is_shown[*number] = true;
        }
        slices.rows.push(Slice {
            key: key.into(),
            main_runtime: main_runtime(members()),
            sums,
            devices: devices(&mut counter, members()),
        });
    }
    let shown = rows.iter().zip(is_shown).filter(|(_, shown)| *shown);
    slices.devices = devices(&mut counter, shown.map(|(row, _)| row));
    slices.baseline = baseline(question.grain, held, before);
    slices
}

fn baseline(grain: Grain, held: &Held, rows: &[MapRow]) -> HashMap<SliceKey, Sums> {
    let slices = by_slice(grain, held, rows).into_iter();
    let sums = slices.map(|(key, numbers)| {
        let sums: Sums = numbers.iter().map(|number| rows[*number].sums).sum();
        (SliceKey::from(key), sums)
    });
    sums.filter(|(_, sums)| sums.launches > 0).collect()
}

/// The numbers of the rows of each slice.
fn by_slice<'r>(grain: Grain, held: &'r Held, rows: &'r [MapRow]) -> HashMap<Key<'r>, Vec<usize>> {
    let mut slices: HashMap<Key<'r>, Vec<usize>> = HashMap::new();
    for (number, row) in rows.iter().enumerate() {
        for (flag, slot) in held.of(row.flag_map) {
            let runtime_version = match grain {
                Grain::Channel => "",
                Grain::Runtime | Grain::Update => row.runtime_version.as_str(),
            };
            let key = Key {
                flag: *flag,
                slot,
                channel: &row.channel,
                runtime_version,
                update_uuid: &row.update_uuid,
            };
            slices.entry(key).or_default().push(number);
        }
    }
    slices
}

/// The runtime version with most device-hours; of several the last by name.
fn main_runtime<'r>(rows: impl Iterator<Item = &'r MapRow>) -> String {
    let mut hours: HashMap<&str, u64> = HashMap::new();
    for row in rows {
        *hours.entry(&row.runtime_version).or_default() += row.sums.device_hours;
    }
    let most = hours
        .into_iter()
        .max_by_key(|(runtime, hours)| (*hours, *runtime));
    most.map(|(runtime, _)| runtime.to_owned())
        .unwrap_or_default()
}

fn devices<'r>(counter: &mut Counter, rows: impl Iterator<Item = &'r MapRow> + Clone) -> Devices {
    let all = rows.clone().map(|row| row.devices.as_slice());
    let all = counter.devices(all);
    let errored = counter.devices(rows.map(|row| row.errored.as_slice()));
    Devices { all, errored }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::sync::Arc;

    use chrono::DateTime;
    use proptest::prelude::*;

    use super::super::model::Span;
    use super::*;
    use crate::insights::channels::{Channels, DefaultChannel};

    const RUNTIMES: [&str; 2] = ["1.0.0", "2.0.0"];

    /// A row: runtime, map, launches, device-hours, devices.
    type Given = (usize, u64, u64, u64, Vec<u32>);

    fn question(grain: Grain) -> Question {
        let flag = |key: &str| Flag::of_values(key, [true.into(), false.into()]);
        Question {
            flags: Arc::new(vec![flag("a"), flag("b")]),
            grain,
            span: Span::hours(
                DateTime::from_timestamp(1_800_000_000, 0).expect("a time"),
                24,
            ),
            channels: Channels::default(),
            default_channel: DefaultChannel::default(),
            platform: None,
            runtime_version: None,
        }
    }

    /// Map 1 holds a = true; 2 spells that otherwise; 3 has b too; 4 only what is not asked for.
    fn held(question: &Question) -> Held {
        let maps = [
            (1, vec![("a", "true")]),
            (2, vec![("a", "\"true\""), ("c", "1")]),
            (3, vec![("a", "false"), ("b", "true")]),
            (4, vec![("c", "1")]),
        ];
        let owned = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
        let maps = maps.map(|(map, pairs)| (map, pairs.into_iter().map(owned).collect()));
        Held::new(&question.flags, maps)
    }

    fn row((runtime, flag_map, launches, device_hours, devices): &Given) -> MapRow {
        MapRow {
            channel: "production".to_owned(),
            runtime_version: RUNTIMES[*runtime].to_owned(),
            flag_map: *flag_map,
            sums: Sums {
                launches: *launches,
                device_hours: *device_hours,
                ..Sums::default()
            },
            errored: devices
                .iter()
                .copied()
                .filter(|device| device % 2 == 0)
                .collect(),
            devices: devices.clone(),
            ..MapRow::default()
        }
    }

    /// (flag, value) that maps hold, by the table above.
    fn pairs(map: u64) -> &'static [(usize, bool)] {
        match map {
            1 | 2 => &[(0, true)],
            3 => &[(0, false), (1, true)],
            _ => &[],
        }
    }

    proptest! {
        #[test]
        fn slices_are_what_their_definition_says(
            given in proptest::collection::vec(
                (0..2_usize, 1..5_u64, 0..3_u64, 0..9_u64, proptest::collection::vec(0..12_u32, 0..9)),
                0..12,
            ),
        ) {
            for grain in [Grain::Channel, Grain::Runtime] {
                let question = question(grain);
                let rows: Vec<MapRow> = given.iter().map(row).collect();
                let combined = slices(&question, &held(&question), rows.clone(), &rows);
                let mut wanted: BTreeMap<(usize, bool, &str), Vec<&Given>> = BTreeMap::new();
                for given in &given {
                    let runtime = if grain == Grain::Channel { "" } else { RUNTIMES[given.0] };
                    for (flag, value) in pairs(given.1) {
                        wanted.entry((*flag, *value, runtime)).or_default().push(given);
                    }
                }
                wanted.retain(|_, rows| rows.iter().any(|row| row.2 > 0));
                prop_assert_eq!(combined.rows.len(), wanted.len());
                let mut union = BTreeSet::new();
                for ((flag, value, runtime), rows) in wanted {
                    let slot = Slot::Variation(usize::from(!value));
                    let of = |slice: &&Slice| {
                        let key = &slice.key;
                        (key.flag, &key.slot, key.runtime_version.as_str()) == (flag, &slot, runtime)
                    };
                    let slice = combined.rows.iter().find(of).expect("a slice");
                    let devices: BTreeSet<u32> = rows.iter().flat_map(|row| row.4.clone()).collect();
                    let errored = devices.iter().filter(|device| *device % 2 == 0).count() as u64;
                    prop_assert_eq!(slice.sums.launches, rows.iter().map(|row| row.2).sum::<u64>());
                    prop_assert_eq!(slice.devices, Devices { all: devices.len() as u64, errored });
                    prop_assert_eq!(combined.baseline_of(&slice.key).launches, slice.sums.launches);
                    let hours = |runtime| rows.iter().filter(|row| row.0 == runtime).map(|row| row.3).sum::<u64>();
                    let main = RUNTIMES.iter().position(|name| *name == slice.main_runtime).expect("one");
                    prop_assert!(hours(main) >= hours(1 - main));
                    union.extend(devices);
                }
                prop_assert_eq!(combined.devices.all, union.len() as u64);
            }
        }
    }
}
