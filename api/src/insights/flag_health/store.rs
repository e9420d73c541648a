use std::collections::{BTreeMap, HashMap};

use clickhouse::Row;
use serde::Deserialize;
use sluice_schema::id::ProjectId;
use sqlx::PgPool;
use uuid::Uuid;

use super::model::{Devices, Grain, Question, Slice, SliceKey, Slices, Span};
use crate::insights::folds::Snapshot;
use crate::insights::metrics::Sums;
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
struct SliceRow {
    is_union: u8,
    flag: (String, String),
    channel: String,
    runtime_version: String,
    update_uuid: String,
    main_runtime: String,
    sums: StoredSums,
    devices: u64,
    errored: u64,
}

#[derive(Row, Deserialize)]
struct HeldRow {
    flag: (String, String),
}

/// The slices of a question's flags, in its window and the one before.
pub(super) async fn read(
    reader: &Reader,
    project: ProjectId,
    folds: &Snapshot,
    question: &Question,
) -> Result<Slices, ReadError> {
    if question.flags.is_empty() {
        return Ok(Slices::default());
    }
    let spellings = spellings(reader, project, question).await?;
    let ask = async |span, devices| {
        let read = SliceRead {
            project,
            question,
            span,
            devices,
            spellings: &spellings,
        };
        match read.statement(folds) {
            Some(statement) => reader.rows::<SliceRow>(statement).await,
            None => Ok(Vec::new()),
        }
    };
    let rows = ask(question.span, true).await?;
    if rows.is_empty() {
        return Ok(Slices::default());
    }
    let before = ask(question.span.baseline(), false).await?;
    Ok(slices(question, rows, &before))
}

fn slices(question: &Question, rows: Vec<SliceRow>, before: &[SliceRow]) -> Slices {
    let places: HashMap<&str, usize> = question
        .flags
        .iter()
        .enumerate()
        .map(|(place, flag)| (flag.key.as_str(), place))
        .collect();
    let key = |row: &SliceRow| {
        let flag = *places.get(row.flag.0.as_str())?;
        Some(SliceKey {
            flag,
            slot: question.flags[flag].slot(&row.flag.1),
            channel: row.channel.clone(),
            runtime_version: row.runtime_version.clone(),
            update_uuid: row.update_uuid.clone(),
        })
    };
    let mut slices = Slices::default();
    for row in before.iter().filter(|row| row.is_union == 0) {
        if let Some(key) = key(row) {
            slices.baseline.insert(key, row.sums.into());
        }
    }
    for row in rows {
        let devices = Devices {
            all: row.devices,
            errored: row.errored,
        };
        if row.is_union != 0 {
            slices.devices = devices;
        } else if let Some(key) = key(&row) {
            slices.rows.push(Slice {
                key,
                main_runtime: row.main_runtime,
                sums: Sums::from(row.sums),
                devices,
            });
        }
    }
    slices
}

/// (key, value) of flags whose value is another spelling of a value that the
/// project has too, with that.
type Spellings = Vec<((String, String), (String, String))>;

async fn spellings(
    reader: &Reader,
    project: ProjectId,
    question: &Question,
) -> Result<Spellings, ReadError> {
    let since = question.span.baseline().window().from;
    let pairs = Statement::new("SELECT DISTINCT arrayJoin(arrayFilter(")
        .with("flag -> has(?, flag.1), flags)) AS flag", keys(question))
        .with(" FROM flag_maps WHERE project_id = ?", project.0)
        .with(
            " AND seen >= toDate(toDateTime(?, 'UTC'))",
            since.timestamp(),
        )
        .push(" ORDER BY flag");
    let pairs: Vec<HeldRow> = reader.rows(pairs).await?;
    let mut values: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for HeldRow { flag: (key, value) } in pairs {
        values.entry(key).or_default().push(value);
    }
    let mut spellings = Spellings::new();
    for flag in question.flags.iter() {
        let values = values.remove(&flag.key).unwrap_or_default();
        for (other, first) in flag.other_spellings(&values) {
            spellings.push(((flag.key.clone(), other), (flag.key.clone(), first)));
        }
    }
    Ok(spellings)
}

fn keys(question: &Question) -> Value {
    let keys = question.flags.iter().map(|flag| flag.key.clone());
    Value::Texts(keys.collect())
}

/// One window of a question.
struct SliceRead<'a> {
    project: ProjectId,
    question: &'a Question,
    span: Span,
    /// Whether distinct devices are asked for. They are what costs.
    devices: bool,
    spellings: &'a Spellings,
}

impl SliceRead<'_> {
    /// Rows are merged by flag map first, which are few, and only then exploded
    /// into flags. `None` where nothing is folded. Sums are spelt differently on
    /// each level, because an alias hides a column.
    fn statement(&self, folds: &Snapshot) -> Option<Statement> {
        let merge = self.merge();
        let slices = self.by_slice(self.by_value(self.by_map(self.folded(folds)?)));
        let select = format!(
            "SELECT toUInt8(grouping(flag)) AS is_union, flag, of_channel AS channel, \
             of_runtime AS runtime_version, of_update AS update_uuid, \
             any(most) AS main_runtime, {SUMS}, \
             toUInt64({merge}(U)) AS devices, toUInt64({merge}(UE)) AS errored FROM ("
        );
        let sets = "((flag, of_channel, of_runtime, of_update), ())";
        let grouped = format!(") GROUP BY GROUPING SETS {sets} HAVING sum(L) > 0");
        Some(Statement::new(&select).append(slices).push(&grouped))
    }

    /// What makes one state of many.
    fn merge_state(&self) -> &'static str {
        if self.devices {
            "uniqCombined64MergeState(12)"
        } else {
            "max"
        }
    }

    /// What makes a number of many states.
    fn merge(&self) -> &'static str {
        if self.devices {
            "uniqCombined64Merge(12)"
        } else {
            "max"
        }
    }

    fn by_map(&self, rows: Statement) -> Statement {
        let merge = self.merge_state();
        let select = format!(
            "SELECT channel, runtime_version, update_uuid, flag_map, \
             sum(L) AS l, sum(J) AS j, sum(C) AS c, sum(S) AS s, sum(E) AS e, sum(EC) AS ec, \
             sum(H) AS h, {merge}(U) AS u, {merge}(UE) AS ue FROM ("
        );
        Statement::new(&select)
            .append(rows)
            .push(") GROUP BY channel, runtime_version, update_uuid, flag_map")
    }

    fn by_value(&self, maps: Statement) -> Statement {
        let merge = self.merge_state();
        let select = format!(
            "SELECT flag, channel, runtime_version, update_uuid, \
             sum(l) AS l1, sum(j) AS j1, sum(c) AS c1, sum(s) AS s1, sum(e) AS e1, \
             sum(ec) AS ec1, sum(h) AS h1, {merge}(u) AS u1, {merge}(ue) AS ue1 \
             FROM (SELECT m.*, arrayJoin(d.held) AS flag FROM ("
        );
        Statement::new(&select)
            .append(maps)
            .push(") AS m INNER JOIN (")
            .append(self.dictionary())
            .push(") AS d ON m.flag_map = d.map)")
            .push(" GROUP BY flag, channel, runtime_version, update_uuid")
    }

    /// Only slices with a launch (Rule F).
    fn by_slice(&self, values: Statement) -> Statement {
        let merge = self.merge_state();
        let runtime = match self.question.grain {
            Grain::Channel => "''",
            Grain::Runtime | Grain::Update => "toString(runtime_version)",
        };
        let select = format!(
            "SELECT flag, toString(channel) AS of_channel, {runtime} AS of_runtime, \
             toString(update_uuid) AS of_update, \
             argMax(toString(runtime_version), (h1, runtime_version)) AS most, \
             sum(l1) AS L, sum(j1) AS J, sum(c1) AS C, sum(s1) AS S, sum(e1) AS E, \
             sum(ec1) AS EC, sum(h1) AS H, {merge}(u1) AS U, {merge}(ue1) AS UE FROM ("
        );
        Statement::new(&select)
            .append(values)
            .push(") GROUP BY flag, of_channel, of_runtime, of_update HAVING L > 0")
    }

    /// What is folded of the window.
    fn folded(&self, folds: &Snapshot) -> Option<Statement> {
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
        match self.span {
            Span::Hours { .. } => rows.by_hour(tables, folds),
            Span::Days { .. } => rows.by_day(tables, folds),
        }
    }

    fn columns(&self) -> String {
        let update = match self.question.grain {
            Grain::Update => "update_uuid",
            Grain::Channel | Grain::Runtime => "'' AS update_uuid",
        };
        let devices = if self.devices {
            "U, UE"
        } else {
            "0 AS U, 0 AS UE"
        };
        format!("channel, runtime_version, {update}, flag_map, L, J, C, S, E, EC, H, {devices}")
    }

    fn filter(&self) -> Statement {
        let question = self.question;
        let filter = Statement::default()
            .with_some(" AND channel = ?", question.channel.as_deref())
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

    /// The flags that each map holds, of those that are asked for, in one spelling.
    fn dictionary(&self) -> Statement {
        let held = "arrayMap(flag -> (toString(flag.1), toString(flag.2)), \
             arrayFilter(flag -> has(?, flag.1), any(flags)))";
        let keys = keys(self.question);
        let dictionary = Statement::new("SELECT flag_map AS map, ");
        let dictionary = match self.spellings.as_slice() {
            [] => dictionary.with(held, keys),
            spellings => {
                let (others, firsts): (Vec<_>, Vec<_>) = spellings.iter().cloned().unzip();
                let others = || Value::Pairs(others.clone());
                dictionary
                    .with("arrayMap(flag -> if(has(?, flag), ", others())
                    .with("?[", Value::Pairs(firsts))
                    .with("indexOf(?, flag)], flag), ", others())
                    .with(held, keys)
                    .push(")")
            }
        };
        dictionary
            .push(" AS held FROM flag_maps")
            .with(" WHERE project_id = ?", self.project.0)
            .push(" GROUP BY flag_map")
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
