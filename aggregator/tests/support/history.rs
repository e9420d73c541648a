//! Random histories of devices, the same for the same seed.

#![allow(
    clippy::unwrap_used,
    dead_code,
    unreachable_pub,
    reason = "helpers of tests"
)]

use bytes::Bytes;
use serde_json::{Value, json};
use sluice_schema::frame::ProjectRef;
use sluice_schema::id::{FrameId, ProjectId};

use super::frame_of;

/// SplitMix64.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

pub const PROJECTS: [i64; 2] = [7, 8];
pub const UPDATES: [&str; 4] = [
    "0199aaaa-0000-7000-8000-000000000001",
    "0199AAAA-0000-7000-8000-000000000001",
    "0199bbbb-0000-7000-8000-000000000002",
    "",
];
const DEVICES: u64 = 30;

/// Frames with the events of one hour that begins at `hour_us`.
pub fn hour(random: &mut Random, hour_us: i64, before_us: i64, bodies: u64) -> Vec<Bytes> {
    let mut frames = Vec::new();
    for project in PROJECTS {
        for _ in 0..bodies.div_ceil(8) {
            let at_us = hour_us + random.below((before_us - hour_us) as u64) as i64;
            let bodies: Vec<Vec<u8>> = (0..8).map(|_| body(random)).collect();
            let project = ProjectRef::Id(ProjectId(project));
            frames.push(frame_of(FrameId::new(), &project, at_us, &bodies));
        }
    }
    frames
}

fn body(random: &mut Random) -> Vec<u8> {
    let device = match random.below(DEVICES) {
        0 => String::new(),
        n => format!("device-{n}"),
    };
    // Devices of a few have a client that sends no flags with launches.
    let old_client = random.chance(8);
    let mut flags = flags(random);
    let events: Vec<Value> = (0..=random.below(5))
        .map(|_| {
            if random.chance(10) {
                flags = self::flags(random);
            }
            event(random, &flags, old_client)
        })
        .collect();
    let body = json!({
        "projectSlug": "my-app",
        "deviceId": device,
        "platform": random.one(&["ios", "android"]),
        "runtimeVersion": random.one(&["1", "1", "2"]),
        "channel": random.one(&["production", "production", "beta"]),
        "updateUuid": random.one(&UPDATES),
        "events": events,
    });
    body.to_string().into_bytes()
}

fn flags(random: &mut Random) -> Value {
    match random.below(8) {
        0 => Value::Null,
        1 => json!({}),
        n => {
            json!({"checkout": n % 2 == 0, "theme": random.one(&["dark", "light"]), "level": n / 3})
        }
    }
}

fn event(random: &mut Random, flags: &Value, old_client: bool) -> Value {
    let kind = random.one(&[
        "app_launch",
        "app_launch",
        "js_error",
        "crash",
        "custom",
        "perf_sample",
    ]);
    let count = match random.below(40) {
        0 => 1_000_000,
        1 => 20_000,
        2..6 => 1 + random.below(5),
        _ => 1,
    };
    let mut event = json!({"type": kind, "count": count, "name": format!("n{}", random.below(4))});
    if kind == "perf_sample" {
        event["tags"] = json!({"duration_ms": random.below(100_000) as f64 / 8.0});
    }
    if !(flags.is_null() || old_client && kind == "app_launch") {
        event["flagStates"] = flags.clone();
    }
    event
}

/// A body whose events each have a flag map of their own: more than an hour takes.
pub fn over_cap(from: usize) -> Vec<u8> {
    let events: Vec<Value> = (from..from + 600)
        .map(|n| json!({"type": "app_launch", "flagStates": {"user": n}}))
        .collect();
    let body = json!({
        "projectSlug": "my-app", "deviceId": format!("wide-{from}"), "platform": "ios",
        "runtimeVersion": "1", "channel": "production", "events": events,
    });
    body.to_string().into_bytes()
}
