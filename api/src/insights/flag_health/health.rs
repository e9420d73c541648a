//! Health of one flag (telemetry.md §5.2).

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::catalogue::Flag;
use super::model::{Rates, Slice, Slices, worst};
use crate::insights::metrics::{Status, Sums};
use crate::page::Whole;

pub(super) const DEFAULT_HOURS: i64 = 24;
pub(super) const MAX_HOURS: i64 = 168;

#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default)]
pub(crate) struct HealthQuery {
    /// The running hour and so many before it; nearest of 1 to 168.
    #[param(value_type = Option<i64>, format = "whole-number", default = 24)]
    pub(super) hours: Option<Whole>,
    /// Exactly this channel.
    pub(super) channel: Option<String>,
    /// Exactly this platform.
    pub(super) platform: Option<String>,
    /// Exactly this runtime version. Also `runtimeVersion`.
    pub(super) runtime_version: Option<String>,
    /// Also if the flag is disabled. Also `includeDisabled`.
    pub(super) include_disabled: Option<bool>,
}

/// Health of a flag.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct FlagHealth {
    summary: Summary,
    /// By sort order of the variation, then by channel.
    variations: Vec<VariationHealth>,
}

/// Channels whose rows have no devices at all, because none said which it is.
/// The dashboard divides by the sum of a channel's devices.
fn channels_of_nobody(slices: &Slices) -> HashSet<&str> {
    let channels = |somebodys: bool| {
        let rows = slices.rows.iter();
        let rows = rows.filter(move |slice| (slice.devices.all > 0) == somebodys);
        rows.map(|slice| slice.key.channel.as_str())
    };
    let somebodys: HashSet<&str> = channels(true).collect();
    channels(false)
        .filter(|channel| !somebodys.contains(channel))
        .collect()
}

/// Over all variations and channels.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Summary {
    /// The worst of the variations.
    status: Status,
    #[serde(flatten)]
    rates: Rates,
    /// Distinct devices that contributed.
    affected_devices: u64,
    /// Up to which receipt everything is counted; null without data.
    last_checked: Option<DateTime<Utc>>,
}

/// A variation in a channel.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct VariationHealth {
    variation_name: String,
    /// The one with most device-hours.
    runtime_version: String,
    channel: String,
    /// Distinct devices.
    devices: u64,
    #[serde(flatten)]
    rates: Rates,
    status: Status,
}

impl FlagHealth {
    /// From the slices of one flag.
    pub(super) fn new(flag: &Flag, slices: &Slices, last_updated: Option<DateTime<Utc>>) -> Self {
        let nobodys = channels_of_nobody(slices);
        let is_shown = |channel: &String| !nobodys.contains(channel.as_str());
        let mut rows: Vec<&Slice> = slices.rows.iter().collect();
        rows.retain(|slice| is_shown(&slice.key.channel));
        if rows.is_empty() {
            return Self::without_data();
        }
        rows.sort_by(|a, b| (&a.key.slot, &a.key.channel).cmp(&(&b.key.slot, &b.key.channel)));
        let union: Sums = rows.iter().map(|slice| slice.sums).sum();
        let before = slices.baseline.iter();
        let before = before.filter(|(key, _)| is_shown(&key.channel));
        let before: Sums = before.map(|(_, sums)| *sums).sum();
        let variation = |slice: &&Slice| VariationHealth {
            variation_name: flag.variation_name(&slice.key.slot),
            runtime_version: slice.main_runtime.clone(),
            channel: slice.key.channel.clone(),
            devices: slice.devices.all,
            rates: Rates::new(&slice.sums, &slices.baseline_of(&slice.key), slice.devices),
            status: slice.sums.status(),
        };
        Self {
            summary: Summary {
                status: worst(rows.iter().copied()),
                rates: Rates::new(&union, &before, slices.devices),
                affected_devices: slices.devices.all,
                last_checked: last_updated,
            },
            variations: rows.iter().map(variation).collect(),
        }
    }

    /// Of a flag that no device reported.
    pub(super) fn without_data() -> Self {
        let none = Sums::default();
        Self {
            summary: Summary {
                status: Status::Healthy,
                rates: Rates::new(&none, &none, super::model::Devices::default()),
                affected_devices: 0,
                last_checked: None,
            },
            variations: Vec::new(),
        }
    }
}
