//! The metrics by their definition (telemetry.md §4.1), from raw rows, in plain
//! Rust: without SQL, sketches or hashes.

#![allow(
    clippy::unwrap_used,
    dead_code,
    unreachable_pub,
    reason = "helpers of tests"
)]

use std::collections::{BTreeMap, HashMap, HashSet};

use clickhouse::{Client, Row};
use serde::Deserialize;
use sluice_schema::clickhouse::ledger::{DAY_S, HOUR_S};

/// A raw row, as far as metrics go.
#[derive(Clone, Debug, Row, Deserialize)]
pub struct RawRow {
    pub received_us: i64,
    pub project: u64,
    pub device: String,
    pub channel: String,
    pub platform: String,
    pub runtime: String,
    pub update: String,
    pub kind: String,
    pub count: u32,
    pub flag_map: u64,
}

/// All raw rows.
pub async fn raw(client: &Client) -> Vec<RawRow> {
    let query = "SELECT toUnixTimestamp64Micro(received_at) AS received_us, project_id AS project, \
         device_id AS device, toString(channel) AS channel, toString(platform) AS platform, \
         toString(runtime_version) AS runtime, toString(update_uuid) AS update, \
         toString(type) AS kind, count, flag_map FROM health_events";
    client.query(query).fetch_all().await.unwrap()
}

/// The dictionary: of each project's map, its flags and values.
pub type Dictionary = HashMap<(u64, u64), Vec<(String, String)>>;

#[derive(Row, Deserialize)]
struct MapRow {
    project_id: u64,
    flag_map: u64,
    f: Vec<(String, String)>,
}

pub async fn dictionary(client: &Client) -> Dictionary {
    let query = "SELECT project_id, flag_map, \
         arrayMap(f -> (toString(f.1), toString(f.2)), any(flags)) AS f \
         FROM flag_maps GROUP BY project_id, flag_map";
    let rows = client.query(query).fetch_all::<MapRow>().await.unwrap();
    let maps = rows
        .into_iter()
        .map(|row| ((row.project_id, row.flag_map), row.f));
    maps.collect()
}

/// What a slice adds up to: L, J, C, S, E, EJ, EC, H, K, and U, UE, UJ, UC.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metrics {
    pub sums: [u64; 9],
    pub devices: [u64; 4],
}

/// A slice: its project, the start of its hour or day, and its other dimensions.
pub type Slice = Vec<String>;

/// One device in one hour in one combination of dimensions, by flag map.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeviceHour {
    pub project: u64,
    pub hour: u32,
    pub channel: String,
    pub platform: String,
    pub runtime: String,
    pub update: String,
    pub device: String,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    launches: u64,
    js_errors: u64,
    crashes: u64,
    customs: u64,
}

impl Counts {
    fn add(&mut self, kind: &str, count: u64) {
        match kind {
            "app_launch" => self.launches += count,
            "js_error" => self.js_errors += count,
            "crash" => self.crashes += count,
            "custom" => self.customs += count,
            other => panic!("{other}"),
        }
    }
}

/// Device-hours and what each holds.
#[derive(Default)]
pub struct DeviceHours(BTreeMap<DeviceHour, BTreeMap<u64, Counts>>);

impl DeviceHours {
    pub fn of<'a>(rows: impl IntoIterator<Item = &'a RawRow>) -> Self {
        let mut all = Self::default();
        for row in rows.into_iter().filter(|row| row.kind != "perf_sample") {
            let device_hour = DeviceHour {
                project: row.project,
                hour: (row.received_us / 1_000_000) as u32 / HOUR_S * HOUR_S,
                channel: row.channel.clone(),
                platform: row.platform.clone(),
                runtime: row.runtime.clone(),
                update: row.update.to_lowercase(),
                device: row.device.clone(),
            };
            let maps = all.0.entry(device_hour).or_default();
            let counts = maps.entry(row.flag_map).or_default();
            counts.add(&row.kind, u64::from(row.count));
        }
        all
    }

    /// Metrics of all slices that `slice` makes.
    pub fn metrics(&self, slice: impl Fn(&DeviceHour) -> Slice) -> BTreeMap<Slice, Metrics> {
        let mut totals = Totals::default();
        for (device_hour, maps) in &self.0 {
            let mut counts = Counts::default();
            for map in maps.values() {
                counts.launches += map.launches;
                counts.js_errors += map.js_errors;
                counts.crashes += map.crashes;
                counts.customs += map.customs;
            }
            totals.add(slice(device_hour), &device_hour.device, counts);
        }
        totals.metrics()
    }

    /// Metrics inside flag slices: `slice` is followed by a flag and its value.
    pub fn flag_metrics(
        &self,
        dictionary: &Dictionary,
        slice: impl Fn(&DeviceHour) -> Slice,
    ) -> BTreeMap<Slice, Metrics> {
        let mut totals = Totals::default();
        for (device_hour, maps) in &self.0 {
            // Rule F.
            if maps.get(&0).is_some_and(|counts| counts.launches > 0) {
                continue;
            }
            for (map, counts) in maps {
                let flags = dictionary.get(&(device_hour.project, *map));
                for (flag, value) in flags.into_iter().flatten() {
                    let mut slice = slice(device_hour);
                    slice.extend([flag.clone(), value.clone()]);
                    let counts = Counts {
                        customs: 0,
                        ..*counts
                    };
                    totals.add(slice, &device_hour.device, counts);
                }
            }
        }
        totals.metrics()
    }
}

#[derive(Default)]
struct Totals(BTreeMap<Slice, ([u64; 9], [HashSet<String>; 4])>);

impl Totals {
    fn add(&mut self, slice: Slice, device: &str, counts: Counts) {
        let Counts {
            launches,
            js_errors,
            crashes,
            customs,
        } = counts;
        let sessions = launches.clamp(1, 10_000);
        let (sums, devices) = self.0.entry(slice).or_default();
        let of_this = [
            launches,
            js_errors,
            crashes,
            sessions,
            sessions.min(js_errors + crashes),
            sessions.min(js_errors),
            sessions.min(crashes),
            1,
            customs,
        ];
        sums.iter_mut().zip(of_this).for_each(|(sum, n)| *sum += n);
        let belongs = [true, js_errors + crashes > 0, js_errors > 0, crashes > 0];
        for (devices, belongs) in devices.iter_mut().zip(belongs) {
            if belongs && !device.is_empty() {
                devices.insert(device.to_owned());
            }
        }
    }

    fn metrics(self) -> BTreeMap<Slice, Metrics> {
        let metrics = self.0.into_iter().map(|(slice, (sums, devices))| {
            let devices = devices.map(|devices| devices.len() as u64);
            (slice, Metrics { sums, devices })
        });
        metrics.collect()
    }
}

pub fn day_of(hour: u32) -> u32 {
    hour / DAY_S * DAY_S
}
