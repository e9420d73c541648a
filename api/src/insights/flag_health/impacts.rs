//! Health of all flags side by side (telemetry.md §5.7).

use std::cmp::Reverse;
use std::collections::HashMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::catalogue::Flag;
use super::model::{Grain, Rates, Slice, Slices, Span};
use crate::insights::metrics::Status;
use crate::page::Whole;

const DEFAULT_HOURS: i64 = 24;
const MAX_DAYS: i64 = 90;

#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default)]
pub(crate) struct ImpactsQuery {
    /// So many UTC dates, the last of which is today; nearest of 1 to 90. The trailing 24 hours
    /// by default. Also `period=14d`.
    #[param(value_type = Option<i64>, format = "whole-number")]
    pub(super) days: Option<Whole>,
    /// Exactly this channel.
    pub(super) channel: Option<String>,
    /// Exactly this platform.
    pub(super) platform: Option<String>,
    /// Only this flag. Also `flagKey`.
    pub(super) flag_key: Option<String>,
    /// `update`: a row for each update too.
    pub(super) by: Option<String>,
    /// Also flags that are disabled. Also `includeDisabled`.
    pub(super) include_disabled: Option<bool>,
}

impl ImpactsQuery {
    pub(super) fn grain(&self) -> Grain {
        match self.by.as_deref() {
            Some("update") => Grain::Update,
            _ => Grain::Runtime,
        }
    }

    pub(super) fn span(&self, now: DateTime<Utc>) -> Span {
        match self.days {
            Some(days) => Span::days(now, Whole::clamped(Some(days), 1, 1, MAX_DAYS)),
            None => Span::hours(now, DEFAULT_HOURS),
        }
    }
}

/// Health of flags by variation.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Impacts {
    /// Highest error rate first.
    pub(super) data: Vec<Impact>,
    /// Distinct devices of all rows together.
    pub(super) total_devices: u64,
    /// Up to which receipt everything is counted.
    pub(super) last_updated_at: Option<DateTime<Utc>>,
}

/// A variation in a channel and runtime version.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Impact {
    flag_id: i64,
    flag_key: String,
    flag_name: String,
    variation_name: String,
    runtime_version: String,
    channel: String,
    /// With `by=update`: as devices report it, in lower case; null if they report none.
    update_uuid: Option<String>,
    /// The project's update with this UUID.
    update_id: Option<i64>,
    /// Distinct devices.
    devices: u64,
    #[serde(flatten)]
    rates: Rates,
    status: Status,
}

/// The updates that these slices are of.
pub(super) fn update_uuids(slices: &Slices) -> Vec<Uuid> {
    let uuids = slices.rows.iter();
    let mut uuids: Vec<Uuid> = uuids
        .filter_map(|slice| slice.key.update_uuid.parse().ok())
        .collect();
    uuids.sort_unstable();
    uuids.dedup();
    uuids
}

/// A row for each slice, the worst first.
pub(super) fn rows(flags: &[Flag], slices: &Slices, updates: &HashMap<Uuid, i64>) -> Vec<Impact> {
    let row = |slice: &Slice| impact(&flags[slice.key.flag], slice, slices, updates);
    let mut rows: Vec<Impact> = slices.rows.iter().map(row).collect();
    rows.sort_by(|a, b| order(a).cmp(&order(b)));
    rows
}

fn order(row: &Impact) -> impl Ord + '_ {
    let worst = (Reverse(row.rates.error_rate), Reverse(row.devices));
    let name = (&row.flag_key, &row.variation_name);
    let place = (&row.channel, &row.runtime_version, &row.update_uuid);
    (worst, name, place)
}

fn impact(flag: &Flag, slice: &Slice, slices: &Slices, updates: &HashMap<Uuid, i64>) -> Impact {
    let uuid = &slice.key.update_uuid;
    let update_id = uuid.parse().ok().and_then(|uuid: Uuid| updates.get(&uuid));
    Impact {
        flag_id: flag.id,
        flag_key: flag.key.clone(),
        flag_name: flag.name.clone(),
        variation_name: flag.variation_name(&slice.key.slot),
        runtime_version: slice.key.runtime_version.clone(),
        channel: slice.key.channel.clone(),
        update_uuid: (!uuid.is_empty()).then(|| uuid.clone()),
        update_id: update_id.copied(),
        devices: slice.devices.all,
        rates: Rates::new(&slice.sums, &slices.baseline_of(&slice.key), slice.devices),
        status: slice.sums.status(),
    }
}
