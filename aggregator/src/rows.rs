//! The rows of a batch of health events, column by column.
//!
//! What always holds: a row is a function of the event, its request and its
//! place in the log alone, so that a range that is read again becomes the same
//! rows; flag maps and custom names that are over their caps are replaced by
//! [`HealthRows::apply`] before the block is encoded.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bytes::Bytes;
use sluice_schema::wire::flags::{FlagStates, device_number};
use sluice_schema::wire::health::{EventType, HealthBatch, HealthEvent};

use crate::batch::BatchId;
use crate::flag_maps::FlagMaps;
use crate::native::{BlockEncoder, Key, LowCardinality, Maps, Strings};
use crate::places::{self, Origin, Places};

/// The name that stands for all custom names over the cap (telemetry.md §7).
pub const OTHER_NAME: &str = "__other__";
pub use sluice_schema::clickhouse::folds::OVERFLOW_MAP;

const COLUMNS: usize = places::COLUMNS + 17;
/// Microseconds of an hour.
pub const MICROS_PER_HOUR: i64 = 3_600_000_000;
/// Hours of a day.
pub const HOURS_PER_DAY: u32 = 24;
/// How long device-hours are kept: older rows are in raw alone and in no rate.
pub const RATES_KEPT_US: i64 = 8 * HOURS_PER_DAY as i64 * MICROS_PER_HOUR;
/// Bytes of a row's numbers, and of its share in the dictionaries' indices.
const FIXED_ROW_BYTES: usize = 160;

/// An hour of a project, counted in hours since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProjectHour {
    /// Whose.
    pub project: u64,
    /// Which.
    pub hour: u32,
}

impl ProjectHour {
    /// The hour of a moment, in microseconds since 1970.
    pub(crate) fn of(project: u64, at_us: i64) -> Self {
        let hour = at_us.div_euclid(MICROS_PER_HOUR) as u32;
        Self { project, hour }
    }
}

/// The custom names and flag maps that a batch has in one hour of a project.
#[derive(Debug, Default)]
pub struct Seen {
    /// Keys of the name column, in the order in which they first came.
    pub names: BTreeSet<Key>,
    /// Ids of flag maps.
    pub maps: BTreeSet<u64>,
}

/// A flag map for the dictionary.
#[derive(Clone, Debug)]
pub struct NewMap {
    /// Whose.
    pub project: u64,
    /// Its id in the rows.
    pub id: u64,
    /// The newest day, since 1970, of the rows that name it.
    pub day: u32,
    /// What it holds.
    pub states: FlagStates,
}

/// Rows of the raw table `health_events`, gathered column by column.
#[derive(Default)]
pub struct HealthRows {
    places: Places,
    device_id: Strings,
    device: Vec<u64>,
    channel: LowCardinality,
    platform: LowCardinality,
    runtime_version: LowCardinality,
    update_uuid: LowCardinality,
    kind: LowCardinality,
    name: LowCardinality,
    message: Strings,
    stack: Strings,
    component_stack: Strings,
    error_name: LowCardinality,
    is_fatal: Vec<u8>,
    count: Vec<u32>,
    duration_ms: Vec<f64>,
    tags: Maps,
    flag_map: Vec<u64>,
    hours: BTreeMap<ProjectHour, Seen>,
    new_maps: HashMap<(u64, u64), FlagStates>,
}

/// What the events of one request share.
struct Envelope {
    device: u64,
    channel: Key,
    platform: Key,
    runtime_version: Key,
    update_uuid: Key,
}

impl HealthRows {
    /// Number of rows.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// About how long the block will be.
    pub fn bytes(&self) -> usize {
        let texts = [
            &self.device_id,
            &self.message,
            &self.stack,
            &self.component_stack,
        ];
        texts.iter().map(|column| column.bytes()).sum::<usize>()
            + self.tags.bytes()
            + self.name.bytes()
            + FIXED_ROW_BYTES * self.len()
    }

    /// What has to be ruled on and stored before these rows, by hour.
    pub fn hours(&self) -> &BTreeMap<ProjectHour, Seen> {
        &self.hours
    }

    /// The flag maps that the dictionary is not known to have, without those `over` the cap.
    pub fn new_maps(&self, over: &BTreeMap<ProjectHour, Seen>) -> Vec<NewMap> {
        let mut new: BTreeMap<(u64, u64), u32> = BTreeMap::new();
        for (slot, seen) in &self.hours {
            let refused = |id: &u64| over.get(slot).is_some_and(|over| over.maps.contains(id));
            for id in seen.maps.iter().filter(|id| !refused(id)) {
                let day = new.entry((slot.project, *id)).or_default();
                *day = (slot.hour / HOURS_PER_DAY).max(*day);
            }
        }
        let unstored = new.into_iter().filter_map(|((project, id), day)| {
            let states = self.new_maps.get(&(project, id))?.clone();
            Some(NewMap {
                project,
                id,
                day,
                states,
            })
        });
        unstored.collect()
    }

    /// Earliest and latest receipt, in microseconds since 1970.
    pub fn received_us(&self) -> Option<(i64, i64)> {
        self.places.received_us()
    }

    /// Number of rows that were received before a moment, in microseconds since 1970.
    pub fn received_before(&self, at_us: i64) -> usize {
        self.places.received_before(at_us)
    }

    /// The text of a custom name.
    pub fn name(&self, key: Key) -> &str {
        self.name.text(key)
    }

    /// Appends a row for each kept event of a request.
    pub fn push(&mut self, origin: &Origin, batch: &HealthBatch<'_>, flags: &mut FlagMaps) {
        if batch.kept() == 0 {
            return;
        }
        let device_id = batch.device_id();
        let envelope = Envelope {
            device: device_number(&device_id),
            channel: self.channel.key(&batch.channel()),
            platform: self.platform.key(&batch.platform()),
            runtime_version: self.runtime_version.key(&batch.runtime_version()),
            update_uuid: self.update_uuid.key(&batch.update_uuid()),
        };
        let slot = ProjectHour::of(origin.project.0 as u64, origin.received_at_us);
        let mut seen = self.hours.remove(&slot).unwrap_or_default();
        for (index, event) in (origin.first_index..).zip(batch.events()) {
            self.places.push(origin, index);
            self.device_id.push(&device_id);
            self.dimensions(&envelope);
            self.facts(event, &mut seen);
            let flag_map = self.flag_map(event, slot, flags);
            if flag_map != 0 {
                seen.maps.insert(flag_map);
            }
            self.flag_map.push(flag_map);
        }
        self.hours.insert(slot, seen);
    }

    fn dimensions(&mut self, envelope: &Envelope) {
        self.device.push(envelope.device);
        self.channel.push(envelope.channel);
        self.platform.push(envelope.platform);
        self.runtime_version.push(envelope.runtime_version);
        self.update_uuid.push(envelope.update_uuid);
    }

    fn facts(&mut self, event: HealthEvent<'_>, seen: &mut Seen) {
        let kind = self.kind.key(event.kind().as_str());
        self.kind.push(kind);
        let name = self.name.key(&event.name());
        self.name.push(name);
        if event.kind() == EventType::Custom {
            seen.names.insert(name);
        }
        self.message.push(&event.message());
        self.stack.push(&event.stack_trace());
        self.component_stack.push(&event.component_stack());
        let error_name = self.error_name.key(&event.error_name());
        self.error_name.push(error_name);
        self.is_fatal.push(u8::from(event.is_fatal()));
        self.count.push(event.count());
        self.duration_ms.push(event.duration_ms());
        // A sample's only tag that means anything is its duration, which has a column.
        match event.kind() {
            EventType::PerfSample => self.tags.push([("", ""); 0]),
            _ => self.tags.push(event.tags()),
        }
    }

    fn flag_map(&mut self, event: HealthEvent<'_>, slot: ProjectHour, flags: &mut FlagMaps) -> u64 {
        if event.kind() == EventType::PerfSample {
            return 0;
        }
        let id = flags.id(event);
        if id != 0 && !flags.is_stored(slot, id) {
            let states = || event.flag_states();
            self.new_maps
                .entry((slot.project, id))
                .or_insert_with(states);
        }
        id
    }

    /// Replaces what is over its cap: the custom names and flag maps given per hour.
    pub fn apply(&mut self, over: &BTreeMap<ProjectHour, Seen>) {
        if over.is_empty() {
            return;
        }
        let other = self.name.key(OTHER_NAME);
        let custom = self.kind.key(EventType::Custom.as_str());
        let names = self.name.rows_mut().iter_mut();
        for (row, (name, kind)) in names.zip(self.kind.rows_mut()).enumerate() {
            let (project, received_at_us) = self.places.of(row);
            let slot = ProjectHour::of(project, received_at_us);
            let Some(over) = over.get(&slot) else {
                continue;
            };
            if *kind == custom && over.names.contains(name) {
                *name = other;
            }
            if over.maps.contains(&self.flag_map[row]) {
                self.flag_map[row] = OVERFLOW_MAP;
            }
        }
    }

    /// The block of these rows as the batch `id`.
    pub fn encode(&self, id: &BatchId) -> Bytes {
        let mut block = BlockEncoder::new(COLUMNS, self.len(), self.bytes());
        self.places.encode(&mut block, id);
        block.strings("device_id", &self.device_id);
        block.fixed("device", "UInt64", &self.device);
        block.low_cardinality("channel", &self.channel);
        block.low_cardinality("platform", &self.platform);
        block.low_cardinality("runtime_version", &self.runtime_version);
        block.low_cardinality("update_uuid", &self.update_uuid);
        block.low_cardinality("type", &self.kind);
        block.low_cardinality("name", &self.name);
        block.strings("message", &self.message);
        block.strings("stack", &self.stack);
        block.strings("component_stack", &self.component_stack);
        block.low_cardinality("error_name", &self.error_name);
        block.fixed("is_fatal", "UInt8", &self.is_fatal);
        block.fixed("count", "UInt32", &self.count);
        block.fixed("duration_ms", "Float64", &self.duration_ms);
        block.maps("tags", &self.tags);
        block.fixed("flag_map", "UInt64", &self.flag_map);
        block.finish()
    }

    /// Drops all rows and keeps the memory.
    pub fn clear(&mut self) {
        self.places.clear();
        self.device.clear();
        self.is_fatal.clear();
        self.count.clear();
        self.duration_ms.clear();
        self.flag_map.clear();
        let texts = [
            &mut self.device_id,
            &mut self.message,
            &mut self.stack,
            &mut self.component_stack,
        ];
        texts.into_iter().for_each(Strings::clear);
        let dictionaries = [
            &mut self.channel,
            &mut self.platform,
            &mut self.runtime_version,
            &mut self.update_uuid,
            &mut self.kind,
            &mut self.name,
            &mut self.error_name,
        ];
        dictionaries.into_iter().for_each(LowCardinality::clear);
        self.tags.clear();
        self.hours.clear();
        self.new_maps.clear();
    }
}
