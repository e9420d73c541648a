use std::collections::HashMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::FromRow;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::TotalsByUpdate;
use crate::insights::metrics::Percent;
use crate::insights::timeseries::model::Bucket;
use crate::insights::window::Window;
use crate::page::Whole;

const DEFAULT_LIMIT: i64 = 100;
const MAX_LIMIT: i64 = 500;
const DEFAULT_DAYS: i64 = 30;
const MAX_DAYS: i64 = 90;
/// Rows of current adoption.
const MAX_CURRENT: usize = 50;

#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default)]
pub(crate) struct InsightsQuery {
    /// How many at most; nearest of 0 to 500.
    #[param(value_type = Option<i64>, format = "whole-number", default = 100)]
    limit: Option<Whole>,
    /// How many to skip.
    #[param(value_type = Option<i64>, format = "whole-number", default = 0)]
    offset: Option<Whole>,
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default)]
pub(crate) struct AdoptionQuery {
    /// So many UTC dates, the last of which is today; nearest of 1 to 90. Also `period=30d`.
    #[param(value_type = Option<i64>, format = "whole-number", default = 30)]
    days: Option<Whole>,
    /// Downloads and installs of this update alone. Also `updateId`.
    #[param(value_type = Option<i64>, format = "whole-number")]
    pub(super) update_id: Option<Whole>,
    /// `day` or `hour`.
    #[param(default = "day")]
    bucket: Option<String>,
    /// Only what devices did on exactly this channel.
    channel: Option<String>,
    /// Only what devices of exactly this platform did.
    platform: Option<String>,
}

/// What is asked of the store.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::insights) struct Question {
    pub(super) window: Window,
    pub(super) bucket: Bucket,
    /// Downloads and installs of this update alone; the nil UUID is none.
    pub(super) update: Option<Uuid>,
    pub(super) channel: Option<String>,
    pub(super) platform: Option<String>,
}

impl Question {
    pub(super) fn new(query: AdoptionQuery, update: Option<Uuid>, now: DateTime<Utc>) -> Self {
        let days = Whole::clamped(query.days, DEFAULT_DAYS, 1, MAX_DAYS);
        Self {
            window: Window::days(now, days),
            bucket: Bucket::named(query.bucket.as_deref()),
            update,
            channel: query.channel,
            platform: query.platform,
        }
    }
}

/// What is counted of one update.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    /// Manifests served.
    pub(crate) downloads: u64,
    /// Distinct devices that it was served to.
    pub(crate) devices: u64,
    /// Distinct devices that were seen running it.
    pub(crate) installs: u64,
}

/// Downloads of one update.
#[derive(Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[allow(clippy::struct_field_names)] // names of the wire
pub(crate) struct Downloads {
    update_id: i64,
    /// How often its manifest was served.
    total_downloads: u64,
    /// To how many devices.
    unique_devices: u64,
    /// How many devices were seen running it.
    installs: u64,
}

impl Downloads {
    pub(super) fn new(update_id: i64, totals: Totals) -> Self {
        Self {
            update_id,
            total_downloads: totals.downloads,
            unique_devices: totals.devices,
            installs: totals.installs,
        }
    }

    /// A page of all that are known, the most downloaded first, and of those the newest.
    pub(super) fn page(
        totals: &TotalsByUpdate,
        known: &[KnownUpdate],
        query: &InsightsQuery,
    ) -> Vec<Self> {
        let totals = |update: &KnownUpdate| totals.get(&update.update_uuid).copied();
        let all = known
            .iter()
            .filter_map(|update| Some(Self::new(update.id, totals(update)?)));
        let mut all: Vec<Self> = all.filter(|update| update.total_downloads > 0).collect();
        all.sort_unstable_by_key(|update| {
            std::cmp::Reverse((update.total_downloads, update.update_id))
        });
        let offset = Whole::clamped(query.offset, 0, 0, i64::MAX);
        let limit = Whole::clamped(query.limit, DEFAULT_LIMIT, 0, MAX_LIMIT);
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        all.into_iter().skip(offset).take(limit as usize).collect()
    }
}

/// An update of the project, as people know it.
#[derive(Clone, Debug, FromRow)]
pub(crate) struct KnownUpdate {
    pub(super) id: i64,
    pub(super) update_uuid: Uuid,
    runtime_version: String,
    channel: String,
    branch_name: Option<String>,
}

/// Downloads of one update in one bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::insights) struct Served {
    /// Start of the bucket, in seconds since 1970.
    pub(super) bucket: i64,
    pub(super) update: Uuid,
    pub(super) downloads: u64,
    pub(super) devices: u64,
}

/// What devices were first served in a window.
#[derive(Debug, Default)]
pub(in crate::insights) struct FirstServed {
    /// Distinct (device, update) by the bucket in which the device was first
    /// served the update, which begins at so many seconds since 1970.
    pub(in crate::insights) by_bucket: HashMap<i64, u64>,
    /// Whether any manifest was served at all.
    pub(in crate::insights) any: bool,
}

/// What the store has, of updates that may be gone.
#[derive(Debug, Default)]
pub(in crate::insights) struct Adopted {
    pub(super) served: Vec<Served>,
    /// Distinct devices by what they were last known to have; nil where that is unknown.
    pub(super) current: HashMap<Uuid, u64>,
    /// Distinct devices that were seen running an update.
    pub(super) installs: HashMap<Uuid, u64>,
}

impl Adopted {
    /// Every update that is named.
    pub(super) fn updates(&self) -> Vec<Uuid> {
        let served = self.served.iter().map(|served| served.update);
        let named = served.chain(self.current.keys().chain(self.installs.keys()).copied());
        let mut updates: Vec<Uuid> = named.collect();
        updates.sort_unstable();
        updates.dedup();
        updates
    }
}

/// How updates reach devices.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[allow(clippy::struct_field_names)] // names of the wire
pub(crate) struct Adoption {
    /// By bucket, ascending, then by update; only buckets with downloads.
    timeseries: Vec<AdoptionPoint>,
    /// What devices have now, the most frequent first, at most 50.
    current_adoption: Vec<CurrentAdoption>,
    /// Distinct devices that were seen in the window, whatever they run.
    total_active_devices: u64,
    /// Manifests served in the window.
    total_downloads: u64,
    /// Distinct (device, update) that were seen running in the window.
    installs: u64,
    /// Of the device ids in the health events of the last seven days, the percentage that was
    /// seen in exactly one hour: high where an app has no storage for its id, so that every
    /// number of devices is too large. Null without ids.
    #[schema(value_type = Option<f64>)]
    one_hour_ids: Option<Percent>,
}

/// Downloads of an update in a bucket.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct AdoptionPoint {
    /// Start of the bucket.
    bucket_time: DateTime<Utc>,
    update_id: i64,
    /// Manifests served.
    downloads: u64,
    /// Distinct devices they were served to.
    unique_devices: u64,
}

/// How many devices have an update.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CurrentAdoption {
    update_id: i64,
    /// What devices call it.
    update_uuid: Uuid,
    runtime_version: String,
    /// The channel it was published to.
    channel: String,
    /// The channel's branch at that time.
    branch_name: Option<String>,
    /// Devices that were last served it, or seen running it.
    device_count: u64,
}

impl Adoption {
    /// Of updates that are known: others are gone, or in the app from the start.
    pub(super) fn new(
        adopted: &Adopted,
        known: &[KnownUpdate],
        one_hour_ids: Option<Percent>,
    ) -> Self {
        let known: HashMap<Uuid, &KnownUpdate> = known
            .iter()
            .map(|update| (update.update_uuid, update))
            .collect();
        let timeseries = points(&adopted.served, &known);
        let installs = adopted.installs.iter();
        let installs = installs.filter(|(update, _)| known.contains_key(*update));
        Self {
            total_downloads: timeseries.iter().map(|point| point.downloads).sum(),
            timeseries,
            current_adoption: current(&adopted.current, &known),
            total_active_devices: adopted.current.values().sum(),
            installs: installs.map(|(_, devices)| devices).sum(),
            one_hour_ids,
        }
    }
}

fn points(served: &[Served], known: &HashMap<Uuid, &KnownUpdate>) -> Vec<AdoptionPoint> {
    let point = |served: &Served| {
        Some(AdoptionPoint {
            bucket_time: DateTime::from_timestamp(served.bucket, 0)?,
            update_id: known.get(&served.update)?.id,
            downloads: served.downloads,
            unique_devices: served.devices,
        })
    };
    let mut points: Vec<AdoptionPoint> = served.iter().filter_map(point).collect();
    points.sort_unstable_by_key(|point| (point.bucket_time, point.update_id));
    points
}

fn current(
    devices: &HashMap<Uuid, u64>,
    known: &HashMap<Uuid, &KnownUpdate>,
) -> Vec<CurrentAdoption> {
    let row = |(update, devices): (&Uuid, &u64)| {
        let update = known.get(update)?;
        Some(CurrentAdoption {
            update_id: update.id,
            update_uuid: update.update_uuid,
            runtime_version: update.runtime_version.clone(),
            channel: update.channel.clone(),
            branch_name: update.branch_name.clone(),
            device_count: *devices,
        })
    };
    let mut rows: Vec<CurrentAdoption> = devices.iter().filter_map(row).collect();
    rows.sort_unstable_by_key(|row| std::cmp::Reverse((row.device_count, row.update_id)));
    rows.truncate(MAX_CURRENT);
    rows
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn known(id: i64) -> KnownUpdate {
        KnownUpdate {
            id,
            update_uuid: Uuid::from_u128(id as u128),
            runtime_version: "1".to_owned(),
            channel: "production".to_owned(),
            branch_name: None,
        }
    }

    proptest! {
        #[test]
        fn more_devices_are_active_than_have_known_updates(
            devices in proptest::collection::hash_map(0_u128..80, 0_u64..50, 0..80),
        ) {
            let current = devices.iter().map(|(update, n)| (Uuid::from_u128(*update), *n));
            let adopted = Adopted { current: current.collect(), ..Adopted::default() };
            let known: Vec<KnownUpdate> = (1..60).map(known).collect();
            let adoption = Adoption::new(&adopted, &known, None);
            let rows = &adoption.current_adoption;
            let shown: u64 = rows.iter().map(|row| row.device_count).sum();
            prop_assert!(adoption.total_active_devices >= shown);
            prop_assert_eq!(adoption.total_active_devices, devices.values().sum::<u64>());
            prop_assert!(rows.len() <= MAX_CURRENT);
            prop_assert!(rows.windows(2).all(|pair| pair[0].device_count >= pair[1].device_count));
        }

        #[test]
        fn pages_make_up_the_whole(
            downloads in proptest::collection::hash_map(1_u128..90, 0_u64..9, 0..60), limit in 1_i64..20,
        ) {
            let totals: TotalsByUpdate = downloads.iter()
                .map(|(update, n)| (Uuid::from_u128(*update), Totals { downloads: *n, ..Totals::default() }))
                .collect();
            let known: Vec<KnownUpdate> = (1..60).map(known).collect();
            let page = |limit, offset| {
                let query = InsightsQuery { limit: Some(Whole(limit)), offset: Some(Whole(offset)) };
                Downloads::page(&totals, &known, &query)
            };
            let whole = page(500, 0);
            prop_assert!(whole.iter().all(|update| update.total_downloads > 0));
            prop_assert!(whole.windows(2).all(|pair| pair[0].total_downloads >= pair[1].total_downloads));
            let pages = (0..60).map(|n| page(limit, n * limit));
            prop_assert_eq!(pages.flatten().collect::<Vec<_>>(), whole);
        }
    }

    #[test]
    fn points_are_in_order_and_of_known_updates() {
        let served = |bucket, update| Served {
            bucket,
            update: Uuid::from_u128(update),
            downloads: 2,
            devices: 1,
        };
        let adopted = Adopted {
            served: vec![
                served(7_200, 1),
                served(3_600, 2),
                served(3_600, 1),
                served(0, 9),
            ],
            ..Adopted::default()
        };
        let adoption = Adoption::new(&adopted, &[known(1), known(2)], None);
        let order = adoption.timeseries.iter();
        let order = order.map(|point| (point.bucket_time.timestamp(), point.update_id));
        let expected = [(3_600, 1), (3_600, 2), (7_200, 1)];
        assert_eq!(order.collect::<Vec<_>>(), expected);
        assert_eq!(adoption.total_downloads, 6);
    }
}
