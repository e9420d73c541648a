//! Reads what decides the evaluation of a project's flags, from one snapshot.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde_json::Value;
use sluice_schema::id::ProjectId;
use sqlx::{FromRow, PgConnection, PgPool};
use uuid::Uuid;

use super::eval::{
    Condition, Environment, Flag, FlagType, Operator, ReleaseLink, Rule, RuleConfig, Segment,
    Variation,
};
use super::rules::StoredRules;

type Result<T> = std::result::Result<T, sqlx::Error>;

/// Everything about a project, as of one instant.
pub(super) async fn load(pool: &PgPool, project: ProjectId) -> Result<StoredRules> {
    let mut snapshot = pool.begin().await?;
    sqlx::query("set transaction isolation level repeatable read, read only")
        .execute(&mut *snapshot)
        .await?;
    let mut parts = Parts {
        variations: group(variations(&mut snapshot, project).await?),
        environments: group(environments(&mut snapshot, project).await?),
        rules: group(rules(&mut snapshot, project).await?),
        links: group(links(&mut snapshot, project).await?),
    };
    let flags = flags(&mut snapshot, project).await?;
    let segments = segments(&mut snapshot, project).await?;
    let branches = branches(&mut snapshot, project).await?;
    snapshot.commit().await?;
    Ok(StoredRules {
        flags: flags
            .into_iter()
            .filter_map(|row| parts.assemble(row))
            .collect(),
        segments,
        branches,
    })
}

/// What belongs to flags, by the flag's id, in the order of the rows.
struct Parts {
    variations: HashMap<i64, Vec<Variation>>,
    environments: HashMap<i64, Vec<Environment>>,
    rules: HashMap<i64, Vec<Rule>>,
    links: HashMap<i64, Vec<ReleaseLink>>,
}

impl Parts {
    fn assemble(&mut self, row: FlagRow) -> Option<Arc<Flag>> {
        Some(Arc::new(Flag {
            id: row.id,
            flag_type: FlagType::parse(&row.flag_type)?,
            key: row.key,
            default_value: row.default_value,
            enabled: row.enabled,
            enabled_changed_at_us: row.enabled_changed_at.timestamp_micros(),
            variations: self.variations.remove(&row.id).unwrap_or_default(),
            environments: self.environments.remove(&row.id).unwrap_or_default(),
            rules: self.rules.remove(&row.id).unwrap_or_default(),
            links: self.links.remove(&row.id).unwrap_or_default(),
        }))
    }
}

fn group<T>(rows: Vec<(i64, T)>) -> HashMap<i64, Vec<T>> {
    let mut groups: HashMap<i64, Vec<T>> = HashMap::new();
    for (flag, row) in rows {
        groups.entry(flag).or_default().push(row);
    }
    groups
}

#[derive(FromRow)]
struct FlagRow {
    id: i64,
    key: String,
    flag_type: String,
    default_value: Value,
    enabled: bool,
    enabled_changed_at: DateTime<Utc>,
}

async fn flags(connection: &mut PgConnection, project: ProjectId) -> Result<Vec<FlagRow>> {
    sqlx::query_as(
        "select id, key, flag_type, default_value, enabled, enabled_changed_at
         from flags where project_id = $1 order by id",
    )
    .bind(project.0)
    .fetch_all(connection)
    .await
}

async fn variations(
    connection: &mut PgConnection,
    project: ProjectId,
) -> Result<Vec<(i64, Variation)>> {
    let rows: Vec<(i64, i64, Value, Option<String>)> = sqlx::query_as(
        "select flag_id, id, value, name
         from flag_variations where project_id = $1 order by sort_order, id",
    )
    .bind(project.0)
    .fetch_all(connection)
    .await?;
    let variation = |(flag, id, value, name)| (flag, Variation { id, value, name });
    Ok(rows.into_iter().map(variation).collect())
}

#[derive(FromRow)]
struct EnvironmentRow {
    flag_id: i64,
    channel_name: String,
    enabled: Option<bool>,
    enabled_changed_at: Option<DateTime<Utc>>,
    default_value: Option<Value>,
}

async fn environments(
    connection: &mut PgConnection,
    project: ProjectId,
) -> Result<Vec<(i64, Environment)>> {
    let rows: Vec<EnvironmentRow> = sqlx::query_as(
        "select flag_id, channel_name, enabled, enabled_changed_at, default_value
         from flag_env_settings where project_id = $1 order by channel_name",
    )
    .bind(project.0)
    .fetch_all(connection)
    .await?;
    let environment = |row: EnvironmentRow| {
        let changed_at = row.enabled_changed_at.unwrap_or_default();
        let environment = Environment {
            channel: row.channel_name,
            enabled: row.enabled,
            enabled_changed_at_us: changed_at.timestamp_micros(),
            default_value: row.default_value,
        };
        (row.flag_id, environment)
    };
    Ok(rows.into_iter().map(environment).collect())
}

#[derive(FromRow)]
struct RuleRow {
    flag_id: i64,
    id: i64,
    priority: i32,
    rule_type: String,
    variant_value: Option<Value>,
    rule_config: Value,
    channel_name: Option<String>,
}

impl RuleRow {
    /// A rule that is not valid, which the API never stores, matches nothing.
    fn rule(self) -> Option<(i64, Rule)> {
        let variant_value = self.variant_value.unwrap_or_default();
        let config = RuleConfig::parse(&self.rule_type, &self.rule_config, &variant_value)
            .inspect_err(|error| {
                tracing::warn!(rule = self.id, %error, "a stored flag rule is not valid, and skipped");
            })
            .ok()?;
        let (id, priority, channel) = (self.id, self.priority, self.channel_name);
        Some((
            self.flag_id,
            Rule {
                id,
                priority,
                channel,
                config,
                variant_value,
            },
        ))
    }
}

async fn rules(connection: &mut PgConnection, project: ProjectId) -> Result<Vec<(i64, Rule)>> {
    let rows: Vec<RuleRow> = sqlx::query_as(
        "select flag_id, id, priority, rule_type, variant_value, rule_config, channel_name
         from flag_rules where project_id = $1 order by priority, id",
    )
    .bind(project.0)
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().filter_map(RuleRow::rule).collect())
}

#[derive(FromRow)]
struct LinkRow {
    flag_id: i64,
    group_id: String,
    enabled: bool,
    variation_id: Option<i64>,
    created_at: DateTime<Utc>,
    updates: Vec<Uuid>,
}

/// The links in force, the newest last, with the enabled updates of their
/// release and the rollback copies of those.
async fn links(
    connection: &mut PgConnection,
    project: ProjectId,
) -> Result<Vec<(i64, ReleaseLink)>> {
    let rows: Vec<LinkRow> = sqlx::query_as(
        "select l.flag_id, l.group_id, l.enabled, l.variation_id, l.created_at,
                array_agg(u.update_uuid order by u.id) as updates
         from release_links l
         join updates t on t.project_id = l.project_id and t.group_id = l.group_id
              and t.channel = l.channel and t.is_enabled
         join updates u on u.project_id = t.project_id
              and (u.id = t.id or u.rollback_to_update_id = t.id)
         where l.project_id = $1 and l.state = 'active' and l.link_type = 'kill_switch'
         group by l.id
         order by l.created_at, l.id",
    )
    .bind(project.0)
    .fetch_all(connection)
    .await?;
    let link = |row: LinkRow| {
        let link = ReleaseLink {
            updates: row.updates,
            group_id: row.group_id,
            enabled: row.enabled,
            variation_id: row.variation_id,
            created_at_us: row.created_at.timestamp_micros(),
        };
        (row.flag_id, link)
    };
    Ok(rows.into_iter().map(link).collect())
}

#[derive(FromRow)]
struct ConditionRow {
    key: String,
    match_type: String,
    attribute: Option<String>,
    operator: Option<String>,
    condition_values: Option<Vec<String>>,
}

async fn segments(
    connection: &mut PgConnection,
    project: ProjectId,
) -> Result<BTreeMap<String, Segment>> {
    let rows: Vec<ConditionRow> = sqlx::query_as(
        "select s.key, s.match_type, c.attribute, c.operator, c.condition_values
         from segments s left join segment_conditions c on c.segment_id = s.id
         where s.project_id = $1 order by s.key, c.sort_order, c.id",
    )
    .bind(project.0)
    .fetch_all(connection)
    .await?;
    let mut segments: BTreeMap<String, Segment> = BTreeMap::new();
    for row in rows {
        let key = row.key;
        let segment = segments.entry(key.clone()).or_insert_with(|| Segment {
            key,
            match_all: row.match_type == "all",
            conditions: Vec::new(),
        });
        if let (Some(attribute), Some(operator)) = (row.attribute, row.operator) {
            let values = row.condition_values.unwrap_or_default();
            segment
                .conditions
                .push(condition(attribute, &operator, values));
        }
    }
    Ok(segments)
}

/// An operator that is not known, which the API never stores, is true of nobody
/// (flags.md §6), as a list of no values is.
fn condition(attribute: String, operator: &str, values: Vec<String>) -> Condition {
    let known = Operator::parse(operator).map(|operator| (operator, values));
    let (operator, values) = known.unwrap_or((Operator::In, Vec::new()));
    Condition {
        attribute,
        operator,
        values,
    }
}

async fn branches(
    connection: &mut PgConnection,
    project: ProjectId,
) -> Result<HashMap<Uuid, Arc<str>>> {
    let rows: Vec<(Uuid, String)> = sqlx::query_as(
        "select update_uuid, branch_name from updates
         where project_id = $1 and branch_name is not null",
    )
    .bind(project.0)
    .fetch_all(connection)
    .await?;
    Ok(rows
        .into_iter()
        .map(|(update, branch)| (update, branch.into()))
        .collect())
}
