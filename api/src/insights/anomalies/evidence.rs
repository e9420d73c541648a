//! A closer look at one alarm: where it comes from, and which flag and which
//! update have a part in it.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use clickhouse::Row;
use serde::Deserialize;
use sluice_schema::clickhouse::folds::OVERFLOW_MAP;
use sluice_schema::id::ProjectId;
use sqlx::PgPool;
use uuid::Uuid;

use super::lift::{Slice, blamed};
use super::measure::{Alarm, What, received, trailing_hour};
use super::rules::Kind;
use super::store::{LinkedFlag, LinkedUpdate};
use crate::error::ApiResult;
use crate::insights::flag_health::catalogue::{self, Flag, Selection, Slot};
use crate::insights::reader::{ReadError, Reader, Statement};

/// What a row says beside its severity.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Evidence {
    /// Distinct devices with what went wrong.
    pub(super) devices: u64,
    /// Platforms with a tenth of it at least, by name.
    pub(super) platforms: Vec<String>,
    pub(super) flag: Option<LinkedFlag>,
    pub(super) update: Option<LinkedUpdate>,
}

#[derive(Row, Deserialize)]
struct PlatformRow {
    platform: String,
    n: u64,
    devices: u64,
}

#[derive(Row, Deserialize)]
struct FlagRow {
    key: String,
    value: String,
    devices: u64,
    failed: u64,
}

#[derive(Row, Deserialize)]
struct UpdateRow {
    uuid: String,
    devices: u64,
    failed: u64,
}

/// Looks into the trailing hour of an alarm.
pub(super) async fn of(
    reader: &Reader,
    pool: &PgPool,
    alarm: &Alarm,
    now: DateTime<Utc>,
) -> ApiResult<Evidence> {
    let look = Look { reader, alarm, now };
    let (devices, platforms) = look.platforms().await?;
    let mut evidence = Evidence {
        devices,
        platforms,
        ..Evidence::default()
    };
    // Samples carry no flags, and their rule names no suspects.
    if alarm.kind != Kind::Latency {
        let project = alarm.place.0;
        evidence.flag = flag(pool, project, look.flags().await?).await?;
        evidence.update = update(pool, project, look.updates().await?).await?;
    }
    Ok(evidence)
}

struct Look<'a> {
    reader: &'a Reader,
    alarm: &'a Alarm,
    now: DateTime<Utc>,
}

impl Look<'_> {
    /// Raw rows of the channel in the hour.
    fn rows(&self) -> Statement {
        let (project, channel) = &self.alarm.place;
        Statement::default()
            .with(" FROM health_events WHERE project_id = ?", project.0)
            .with(" AND channel = ?", channel.as_str())
            .push(" AND")
            .append(received(trailing_hour(self.now)))
    }

    /// Of those, what went wrong.
    fn wrong(&self) -> Statement {
        match (&self.alarm.what, self.alarm.kind) {
            (What::Latency { metric, .. }, _) => Statement::default()
                .push("type = 'perf_sample'")
                .with(" AND name = ?", metric.as_str()),
            (_, Kind::Crashes) => Statement::new("type = 'crash'"),
            _ => Statement::new("type IN ('js_error', 'crash')"),
        }
    }

    /// Distinct devices, and the platforms that matter.
    async fn platforms(&self) -> Result<(u64, Vec<String>), ReadError> {
        let by_platform = Statement::new(
            "SELECT toString(platform) AS platform, sum(count) AS n, \
             uniqCombined64If(device, device != 0) AS devices",
        )
        .append(self.rows())
        .push(" AND ")
        .append(self.wrong())
        .push(" GROUP BY GROUPING SETS ((platform), ()) ORDER BY grouping(platform), platform");
        let mut rows: Vec<PlatformRow> = self.reader.rows(by_platform).await?;
        // The last is the total.
        let Some(all) = rows.pop() else {
            return Ok((0, Vec::new()));
        };
        let matters = rows.into_iter().filter(|row| row.n * 10 >= all.n);
        Ok((all.devices, matters.map(|row| row.platform).collect()))
    }

    /// Devices by something that they have, and those of them that failed.
    /// Devices that launched without flags are of older clients (Rule F).
    fn devices(&self, by: &str, more: &str) -> Statement {
        Statement::new(&format!("SELECT device, {by} AS held, countIf("))
            .append(self.wrong())
            .push(") > 0 AS failed")
            .append(self.rows())
            .push(&format!(" AND type != 'perf_sample' AND device != 0{more}"))
    }

    async fn flags(&self) -> Result<Vec<FlagRow>, ReadError> {
        let maps = self
            .devices(
                "flag_map",
                &format!(" AND flag_map NOT IN (0, {OVERFLOW_MAP})"),
            )
            .push(" AND device NOT IN (SELECT device")
            .append(self.rows())
            .push(" AND type = 'app_launch' AND flag_map = 0) GROUP BY device, flag_map");
        let maps = Statement::new(
            "SELECT held AS flag_map, count() AS devices, countIf(failed) AS failed FROM (",
        )
        .append(maps)
        .push(") GROUP BY held");
        let dictionary = Statement::default()
            .with(
                "(SELECT flag_map, any(flags) AS flags FROM flag_maps WHERE project_id = ?",
                self.alarm.place.0.0,
            )
            .push(" GROUP BY flag_map)");
        let values = Statement::new(
            "SELECT toString(flag.1) AS key, toString(flag.2) AS value, sum(devices) AS devices, \
             sum(failed) AS failed FROM (SELECT m.devices AS devices, m.failed AS failed, \
             arrayJoin(d.flags) AS flag FROM (",
        )
        .append(maps)
        .push(") AS m INNER JOIN ")
        .append(dictionary)
        .push(" AS d ON m.flag_map = d.flag_map) GROUP BY key, value ORDER BY key, value");
        self.reader.rows(values).await
    }

    async fn updates(&self) -> Result<Vec<UpdateRow>, ReadError> {
        let devices = self.devices("lowerUTF8(update_uuid)", "");
        let updates = Statement::new(
            "SELECT held AS uuid, count() AS devices, countIf(failed) AS failed FROM (",
        )
        .append(devices)
        .push(" GROUP BY device, lowerUTF8(update_uuid)) GROUP BY held ORDER BY uuid");
        self.reader.rows(updates).await
    }
}

/// The flag of the project to blame, if any.
async fn flag(
    pool: &PgPool,
    project: ProjectId,
    rows: Vec<FlagRow>,
) -> ApiResult<Option<LinkedFlag>> {
    if rows.is_empty() {
        return Ok(None);
    }
    let all = Selection {
        include_disabled: true,
        ..Selection::default()
    };
    let flags = catalogue::flags(pool, project, all).await?;
    let slices = by_variation(&flags, rows);
    let guilty = blamed(&slices, |(flag, _)| *flag, |_| true);
    Ok(guilty.map(|(place, slot)| {
        let flag = &flags[place];
        LinkedFlag {
            id: flag.id,
            variation: flag.variation_name(&slot),
            key: flag.key.clone(),
        }
    }))
}

/// Devices by flag, as a place in `flags`, and variation, however its value is spelt.
fn by_variation(flags: &[Flag], rows: Vec<FlagRow>) -> Vec<Slice<(usize, Slot)>> {
    let keys = flags.iter().enumerate();
    let places: HashMap<&str, usize> = keys.map(|(place, flag)| (&*flag.key, place)).collect();
    let mut slices: Vec<Slice<(usize, Slot)>> = Vec::new();
    for row in rows {
        let Some(&place) = places.get(&*row.key) else {
            continue;
        };
        let value = (place, flags[place].slot(&row.value));
        match slices.iter_mut().find(|slice| slice.value == value) {
            Some(slice) => {
                slice.devices += row.devices;
                slice.failed += row.failed;
            }
            None => slices.push(Slice {
                value,
                devices: row.devices,
                failed: row.failed,
            }),
        }
    }
    slices
}

/// The update of the project to blame, if any.
async fn update(
    pool: &PgPool,
    project: ProjectId,
    rows: Vec<UpdateRow>,
) -> ApiResult<Option<LinkedUpdate>> {
    let uuids = rows.iter().filter_map(|row| row.uuid.parse().ok());
    let known = updates(pool, project, uuids.collect()).await?;
    // What the project does not know is beside it, and is never blamed.
    let slices: Vec<Slice<Option<Uuid>>> = rows
        .into_iter()
        .map(|row| Slice {
            value: row
                .uuid
                .parse()
                .ok()
                .filter(|uuid| known.contains_key(uuid)),
            devices: row.devices,
            failed: row.failed,
        })
        .collect();
    let guilty = blamed(&slices, |_| (), Option::is_some).flatten();
    Ok(guilty.and_then(|uuid| known.get(&uuid).cloned()))
}

/// Updates of a project by UUID.
pub(super) async fn updates(
    pool: &PgPool,
    project: ProjectId,
    uuids: Vec<Uuid>,
) -> Result<HashMap<Uuid, LinkedUpdate>, sqlx::Error> {
    if uuids.is_empty() {
        return Ok(HashMap::new());
    }
    let rows: Vec<(Uuid, i64, String)> = sqlx::query_as(
        "select update_uuid, id, runtime_version from updates
         where project_id = $1 and update_uuid = any($2)",
    )
    .bind(project.0)
    .bind(uuids)
    .fetch_all(pool)
    .await?;
    let update = |(uuid, id, runtime_version)| {
        (
            uuid,
            LinkedUpdate {
                id,
                runtime_version,
            },
        )
    };
    Ok(rows.into_iter().map(update).collect())
}
