//! Calls of the flag routes as evidence that a device is active (telemetry.md §8).
//!
//! Behind the answers: a device is noted in memory, once in an hour, and stored
//! within seconds as a row of `device_updates` that names no update. Evidence
//! that is stored twice is the same evidence, so what a full memory forgets is
//! noted again, and no call waits for anything.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use chrono::{DateTime, Datelike as _, Utc};
use clickhouse::Client;
use clickhouse::error::Result;
use metrics::counter;
use serde_json::json;
use sluice_schema::id::ProjectId;
use sluice_schema::wire::flags::device_number;

use super::blocks::{Series, cut, instant, keep_storing};
use crate::flags::eval::Device;

/// Devices of an hour that are remembered as noted: 16 MB.
const MAX_NOTED: usize = 1_000_000;
/// Devices that wait to be stored; more are noted at their next call.
const MAX_WAITING: usize = 50_000;
/// Longest channel and platform, in bytes (telemetry.md §2.6).
const MAX_CHANNEL_BYTES: usize = 256;
const MAX_PLATFORM_BYTES: usize = 64;
const MICROS_PER_HOUR: i64 = 3_600_000_000;
const UNNOTED: &str = "sluice_api_flag_callers_unnoted_total";
const INSERT: &str = "INSERT INTO device_updates (month, project_id, served, channel, platform, \
                      device, client, n, first_at, last_at) FORMAT JSONEachRow";

/// Devices that called this process.
pub(crate) struct Callers {
    notes: Mutex<Notes>,
    /// Held while a block is sent.
    series: tokio::sync::Mutex<Series>,
}

#[derive(Default)]
struct Notes {
    /// Since 1970.
    hour: i64,
    /// Hashes of who is stored, or waits for it, in this hour.
    noted: HashSet<u64>,
    waiting: Vec<Caller<'static>>,
}

#[derive(Hash)]
struct Caller<'d> {
    project: ProjectId,
    device: u64,
    channel: Cow<'d, str>,
    platform: Cow<'d, str>,
    /// In microseconds since 1970.
    at_us: i64,
}

impl Default for Callers {
    fn default() -> Self {
        Self {
            notes: Mutex::default(),
            series: tokio::sync::Mutex::new(Series::new("flag-calls", INSERT)),
        }
    }
}

impl Callers {
    /// A device called at a moment.
    pub(crate) fn note(&self, project: ProjectId, device: &Device, at: DateTime<Utc>) {
        let (channel, platform) = (device.channel.as_deref(), device.platform.as_deref());
        let caller = Caller {
            project,
            device: device_number(&device.device_id),
            channel: cut(channel.unwrap_or_default(), MAX_CHANNEL_BYTES),
            platform: cut(platform.unwrap_or_default(), MAX_PLATFORM_BYTES),
            at_us: at.timestamp_micros(),
        };
        // Each statement leaves the notes whole.
        let mut notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        notes.add(caller);
    }

    /// Stores who called every few seconds, for ever.
    pub(crate) async fn keep_storing(&self, client: &Client) {
        keep_storing("devices that called flag routes", || self.store(client)).await;
    }

    /// Stores who called so far.
    pub(crate) async fn store(&self, client: &Client) -> Result<()> {
        let mut series = self.series.lock().await;
        series.send(client).await?;
        let waiting = {
            let mut notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut notes.waiting)
        };
        if waiting.is_empty() {
            return Ok(());
        }
        series.push(|_, _| encode(&waiting));
        series.send(client).await
    }
}

impl Notes {
    fn add(&mut self, caller: Caller<'_>) {
        let hour = caller.at_us.div_euclid(MICROS_PER_HOUR);
        if hour > self.hour || self.noted.len() >= MAX_NOTED {
            self.noted.clear();
            self.hour = hour;
        }
        let key = caller.key();
        if self.noted.contains(&key) {
            return;
        }
        if self.waiting.len() >= MAX_WAITING {
            counter!(UNNOTED).increment(1);
            return;
        }
        self.noted.insert(key);
        self.waiting.push(caller.into_owned());
    }
}

impl Caller<'_> {
    fn into_owned(self) -> Caller<'static> {
        Caller {
            channel: self.channel.into_owned().into(),
            platform: self.platform.into_owned().into(),
            project: self.project,
            device: self.device,
            at_us: self.at_us,
        }
    }

    /// Who and where, in a number.
    fn key(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        let Self {
            project,
            device,
            channel,
            platform,
            at_us: _,
        } = self;
        (project, device, channel, platform).hash(&mut hasher);
        hasher.finish()
    }
}

fn encode(callers: &[Caller<'_>]) -> Bytes {
    let mut lines = String::new();
    for caller in callers {
        let at = instant(caller.at_us);
        let month = DateTime::from_timestamp_micros(caller.at_us).unwrap_or_default();
        let row = json!({
            "month": format!("{:04}-{:02}-01", month.year(), month.month()),
            "project_id": caller.project.0,
            "served": 0,
            "channel": caller.channel,
            "platform": caller.platform,
            "device": caller.device,
            "client": 0,
            "n": 1,
            "first_at": at,
            "last_at": at,
        });
        // Writing to a string does not fail.
        let _ = writeln!(lines, "{row}");
    }
    lines.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::insights::evaluations::bulk::tests::migrated;

    const HOUR: i64 = 491_000;

    fn device(id: &str, channel: &str) -> Device {
        Device {
            device_id: id.to_owned(),
            channel: Some(channel.to_owned()),
            ..Device::default()
        }
    }

    fn at(hour: i64, minutes: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(hour * 3_600 + minutes * 60, 0).expect("an instant")
    }

    fn waiting(callers: &Callers) -> usize {
        callers.notes.lock().expect("whole").waiting.len()
    }

    #[test]
    fn a_device_is_noted_once_in_an_hour_and_place() {
        let callers = Callers::default();
        let calls = [
            (1, "a", "beta", 0),
            (1, "a", "beta", 59),
            (1, "b", "beta", 1),
            (1, "a", "main", 1),
            (2, "a", "beta", 1),
        ];
        for (project, id, channel, minutes) in calls {
            let device = device(id, channel);
            callers.note(ProjectId(project), &device, at(HOUR, minutes));
        }
        assert_eq!(waiting(&callers), 4);
        callers.note(ProjectId(1), &device("a", "beta"), at(HOUR + 1, 0));
        assert_eq!(waiting(&callers), 5);
    }

    #[test]
    fn memory_is_bounded_and_who_finds_no_place_is_noted_later() {
        let callers = Callers::default();
        let now = at(HOUR, 0);
        let id = |n: usize| device(&n.to_string(), "");
        for n in 0..=MAX_WAITING {
            callers.note(ProjectId(1), &id(n), now);
        }
        assert_eq!(waiting(&callers), MAX_WAITING);
        callers.notes.lock().expect("whole").waiting.clear();
        callers.note(ProjectId(1), &id(0), now);
        assert_eq!(waiting(&callers), 0, "noted before");
        callers.note(ProjectId(1), &id(MAX_WAITING), now);
        assert_eq!(waiting(&callers), 1, "found no place before");
        let mut notes = callers.notes.lock().expect("whole");
        notes.noted = (0..MAX_NOTED as u64).collect();
        drop(notes);
        callers.note(ProjectId(1), &id(7), now);
        assert_eq!(callers.notes.lock().expect("whole").noted.len(), 1);
    }

    #[tokio::test]
    async fn who_called_while_the_store_was_away_is_stored_later() {
        let client = migrated().await;
        let away = Client::default().with_url("http://127.0.0.1:1");
        let callers = Callers::default();
        let long = device("a", &"é".repeat(200));
        callers.note(ProjectId(7), &long, at(HOUR, 1));
        assert!(callers.store(&away).await.is_err());
        callers.note(ProjectId(7), &device("b", ""), at(HOUR, 2));
        assert!(callers.store(&away).await.is_err());
        callers.store(&client).await.unwrap();
        callers.store(&client).await.unwrap();
        let rows: Vec<(u64, String, u64, u32, u64)> = client
            .query(
                "SELECT device, toString(month), length(channel), toUnixTimestamp(last_at), n \
                 FROM device_updates FINAL WHERE project_id = 7 AND served = 0 \
                 AND empty(update_uuid) AND client = 0 ORDER BY last_at",
            )
            .fetch_all()
            .await
            .unwrap();
        let month = at(HOUR, 0).format("%Y-%m-01").to_string();
        let seconds = |minutes| at(HOUR, minutes).timestamp() as u32;
        let expected = [
            (device_number("a"), month.clone(), 256, seconds(1), 1),
            (device_number("b"), month, 0, seconds(2), 1),
        ];
        assert_eq!(rows, expected);
    }
}
