//! What one evaluation knows of the device and the person behind it (flags.md §6).

use std::borrow::Cow;

use serde_json::{Map, Value};
use uuid::Uuid;

use super::condition::Attribute;

/// Whole days since the device first had its update.
const UPDATED_WITHIN_DAYS: &str = "updated_within_days";
/// What names of attributes that we derive begin with.
const DERIVED: &str = "ota.";
/// Microseconds of a day.
const DAY_US: i64 = 86_400_000_000;

/// What the device said of itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Device {
    /// Stands in for a targeting key that is absent or empty.
    pub device_id: String,
    /// Whom to target.
    pub targeting_key: Option<String>,
    /// The channel asked for.
    pub channel: Option<String>,
    /// `ios`, `android`, …
    pub platform: Option<String>,
    /// Runtime version of the app.
    pub runtime_version: Option<String>,
    /// The update that the device runs, as it wrote it.
    pub update_id: Option<String>,
    /// Whatever else it sent.
    pub attributes: Map<String, Value>,
}

impl Device {
    /// Whom to target. An empty key counts as absent (flags.md §8).
    pub fn targeting_key(&self) -> &str {
        self.targeting_key
            .as_deref()
            .filter(|key| !key.is_empty())
            .unwrap_or(&self.device_id)
    }

    /// The update that the device runs, where what it wrote is a UUID. Clients
    /// put it among the attributes, too.
    pub fn update_uuid(&self) -> Option<Uuid> {
        Uuid::try_parse(self.update_text()?).ok()
    }

    fn update_text(&self) -> Option<&str> {
        let attribute = || self.attributes.get("update_id").and_then(Value::as_str);
        self.update_id.as_deref().or_else(attribute)
    }
}

/// One evaluation's view: the device, what we know of its update, and the time.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// What the device said.
    pub device: &'a Device,
    /// Branch of the update that it runs, where that is one of the project.
    pub branch: Option<&'a str>,
    /// When the device first had that update, in microseconds since 1970, where known.
    pub update_since_us: Option<i64>,
    /// The time of the evaluation, in microseconds since 1970.
    pub now_us: i64,
}

impl<'a> Context<'a> {
    /// An attribute by its flat name: what we derive wins over the request's
    /// fields, and those over its attributes.
    pub fn attribute(&self, name: &str) -> Attribute<'a> {
        if let Some(text) = self.derived(name).or_else(|| self.field(name)) {
            return Attribute::Text(text);
        }
        let given = self.device.attributes.get(name);
        given.map_or(Attribute::Absent, Attribute::of)
    }

    fn field(&self, name: &str) -> Option<Cow<'a, str>> {
        let device = self.device;
        let text = match name {
            "platform" => device.platform.as_deref(),
            "runtime_version" | "runtimeVersion" => device.runtime_version.as_deref(),
            "device_id" | "deviceId" => {
                Some(device.device_id.as_str()).filter(|text| !text.is_empty())
            }
            "channel" => device.channel.as_deref(),
            "update_id" => device.update_id.as_deref(),
            _ => None,
        };
        text.map(Cow::Borrowed)
    }

    fn derived(&self, name: &str) -> Option<Cow<'a, str>> {
        let device = self.device;
        match name.strip_prefix(DERIVED)? {
            "update_id" => device.update_text().map(Cow::Borrowed),
            "channel" => device.channel.as_deref().map(Cow::Borrowed),
            "runtime_version" => device.runtime_version.as_deref().map(Cow::Borrowed),
            "branch" => self.branch.map(Cow::Borrowed),
            UPDATED_WITHIN_DAYS => self.days_updated().map(|days| days.to_string().into()),
            _ => None,
        }
    }

    /// Whether the attribute of this name is the age of the device's update.
    pub(super) fn is_update_age(name: &str) -> bool {
        name.strip_prefix(DERIVED) == Some(UPDATED_WITHIN_DAYS)
    }

    fn days_updated(&self) -> Option<i64> {
        let age_us = self.now_us - self.update_since_us?;
        Some(age_us.max(0) / DAY_US)
    }

    /// Whether the device first had its update within the last `days`.
    pub(super) fn updated_within(&self, days: u32) -> bool {
        let window_us = i64::from(days).saturating_mul(DAY_US);
        self.updated_after(self.now_us.saturating_sub(window_us))
    }

    /// Whether the device first had its update at `at_us` or later.
    pub(super) fn updated_after(&self, at_us: i64) -> bool {
        self.update_since_us
            .is_some_and(|since_us| since_us >= at_us)
    }
}
