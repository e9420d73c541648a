use std::collections::HashMap;

use clickhouse::Row;
use serde::Deserialize;
use sluice_schema::id::ProjectId;
use sqlx::PgPool;
use tokio::task::spawn_blocking;
use uuid::Uuid;

use super::combine::{self, Held, MapRow};
use super::model::{Grain, Question, Slices, Span};
use crate::insights::channels::DefaultChannel;
use crate::insights::folds::Snapshot;
use crate::insights::reader::{ReadError, Reader, Statement, Value};
use crate::insights::stored::{Rows, SUMS, StoredSums, Tables, maps_with_flag};

const OVER_UPDATES: Tables = Tables {
    daily: "daily_flags",
    hourly: "hourly_flags",
    now: "hourly_maps_now",
};
const BY_UPDATE: Tables = Tables {
    daily: "daily_maps",
    hourly: "hourly_maps",
    now: "hourly_maps_now",
};

#[derive(Row, Deserialize)]
struct StoredMap {
    of_channel: String,
    of_runtime: String,
    of_update: String,
    flag_map: u64,
    sums: StoredSums,
    devices: Vec<u32>,
    errored: Vec<u32>,
}

#[derive(Row, Deserialize)]
struct HeldRow {
    flag_map: u64,
    held: Vec<(String, String)>,
}

/// The slices of a question's flags, in its window and the one before.
///
/// ClickHouse sums up by flag map, which are few. A map is in the slices of
/// every flag that it holds; that is done here ([`combine`]), because moving
/// sets of devices about there costs ten times as much.
pub(super) async fn read(
    reader: &Reader,
    project: ProjectId,
    folds: &Snapshot,
    question: &Question,
) -> Result<Slices, ReadError> {
    if question.flags.is_empty() {
        return Ok(Slices::default());
    }
    let ask = async |span, devices| {
        let read = MapRead {
            project,
            question,
            span,
            devices,
        };
        match read.statement(folds) {
            Some(statement) => reader.rows::<StoredMap>(statement).await,
            None => Ok(Vec::new()),
        }
    };
    let rows = ask(question.span, true).await?;
    if rows.is_empty() {
        return Ok(Slices::default());
    }
    let (before, held) = tokio::try_join!(
        ask(question.span.baseline(), false),
        held(reader, project, question)
    )?;
    let question = question.clone();
    let combined = spawn_blocking(move || {
        let row = |stored: StoredMap| stored.shown(&question.default_channel);
        let [rows, before]: [Vec<MapRow>; 2] =
            [rows, before].map(|rows| rows.into_iter().map(row).collect());
        combine::slices(&question, &held, rows, &before)
    });
    combined
        .await
        .map_err(|error| clickhouse::error::Error::Other(error.into()).into())
}

impl StoredMap {
    /// Under the channel that it is shown as: rows of one channel are in the
    /// same slices, whose devices are the union of theirs.
    fn shown(self, default_channel: &DefaultChannel) -> MapRow {
        MapRow {
            channel: default_channel.shown(self.of_channel),
            runtime_version: self.of_runtime,
            update_uuid: self.of_update,
            flag_map: self.flag_map,
            sums: self.sums.into(),
            devices: self.devices,
            errored: self.errored,
        }
    }
}

/// What each map of a project holds of the flags that are asked for.
async fn held(reader: &Reader, project: ProjectId, question: &Question) -> Result<Held, ReadError> {
    let keys = question.flags.iter().map(|flag| flag.key.clone());
    let maps = Statement::default()
        .with(
            "SELECT flag_map, arrayMap(flag -> (toString(flag.1), toString(flag.2)), \
             arrayFilter(flag -> has(?, flag.1), any(flags))) AS held FROM flag_maps",
            Value::Texts(keys.collect()),
        )
        .with(" WHERE project_id = ?", project.0)
        .push(" GROUP BY flag_map");
    let maps: Vec<HeldRow> = reader.rows(maps).await?;
    let maps = maps.into_iter().map(|row| (row.flag_map, row.held));
    Ok(Held::new(&question.flags, maps))
}

/// One window of a question.
struct MapRead<'a> {
    project: ProjectId,
    question: &'a Question,
    span: Span,
    /// Whether devices are asked for. They are what costs.
    devices: bool,
}

impl MapRead<'_> {
    /// A row for each channel, runtime version, update if that matters, and
    /// flag map. `None` where nothing is folded. Sets of devices are put one
    /// after the other.
    fn statement(&self, folds: &Snapshot) -> Option<Statement> {
        let rows = Rows {
            project: self.project,
            window: self.span.window(),
            columns: &self.columns(),
            filter: &self.filter(),
        };
        let tables = match self.question.grain {
            Grain::Update => BY_UPDATE,
            Grain::Channel | Grain::Runtime => OVER_UPDATES,
        };
        let rows = match self.span {
            Span::Hours { .. } => rows.by_hour(tables, folds),
            Span::Days { .. } => rows.by_day(tables, folds),
        };
        let select = format!(
            "SELECT toString(channel) AS of_channel, toString(runtime_version) AS of_runtime, \
             toString(update_uuid) AS of_update, flag_map, {SUMS}, \
             groupArrayArray(D) AS devices, groupArrayArray(DE) AS errored FROM ("
        );
        let grouped = ") GROUP BY channel, runtime_version, update_uuid, flag_map";
        Some(Statement::new(&select).append(rows?).push(grouped))
    }

    fn columns(&self) -> String {
        let update = match self.question.grain {
            Grain::Update => "update_uuid",
            Grain::Channel | Grain::Runtime => "'' AS update_uuid",
        };
        let devices = if self.devices {
            "D, DE"
        } else {
            "CAST([], 'Array(UInt32)') AS D, CAST([], 'Array(UInt32)') AS DE"
        };
        format!("channel, runtime_version, {update}, flag_map, L, J, C, S, E, EC, H, {devices}")
    }

    fn filter(&self) -> Statement {
        let question = self.question;
        let filter = question
            .channels
            .clause()
            .with_some(" AND platform = ?", question.platform.as_deref())
            .with_some(
                " AND runtime_version = ?",
                question.runtime_version.as_deref(),
            );
        match question.flags.as_slice() {
            [only] => filter
                .push(" AND flag_map IN (")
                .append(maps_with_flag(self.project, &only.key))
                .push(")"),
            _ => filter,
        }
    }
}

/// Ids of the updates of a project with these UUIDs, by UUID.
pub(super) async fn update_ids(
    pool: &PgPool,
    project: ProjectId,
    uuids: &[Uuid],
) -> Result<HashMap<Uuid, i64>, sqlx::Error> {
    let ids: Vec<(Uuid, i64)> = sqlx::query_as(
        "select update_uuid, id from updates where project_id = $1 and update_uuid = any($2)",
    )
    .bind(project.0)
    .bind(uuids)
    .fetch_all(pool)
    .await?;
    Ok(ids.into_iter().collect())
}
