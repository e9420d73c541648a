//! Flags with what belongs to them, each answer from one snapshot.

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, Utc};
use serde_json::Value;
use sluice_schema::id::ProjectId;
use sqlx::{PgConnection, PgPool};

use super::model::{EnvSetting, Flag, FlagDetail, FlagListItem, Rule, Variation};

type Result<T> = std::result::Result<T, sqlx::Error>;

/// All flags, by key.
pub(super) async fn list(pool: &PgPool, project: ProjectId) -> Result<Vec<FlagListItem>> {
    let mut snapshot = pool.begin().await?;
    sqlx::query("set transaction isolation level repeatable read, read only")
        .execute(&mut *snapshot)
        .await?;
    let flags: Vec<Flag> = sqlx::query_as(
        "select id, project_id, name, key, flag_type, default_value, enabled, description,
                created_by_name, created_at, updated_at
         from flags where project_id = $1 order by key collate \"C\"",
    )
    .bind(project.0)
    .fetch_all(&mut *snapshot)
    .await?;
    let mut parts = Parts::of(&mut snapshot, project, None).await?;
    snapshot.commit().await?;
    Ok(flags
        .into_iter()
        .map(|flag| parts.list_item(flag))
        .collect())
}

/// One flag.
pub(super) async fn detail(
    connection: &mut PgConnection,
    project: ProjectId,
    id: i64,
) -> Result<Option<FlagDetail>> {
    let flag: Option<Flag> = sqlx::query_as(
        "select id, project_id, name, key, flag_type, default_value, enabled, description,
                created_by_name, created_at, updated_at
         from flags where project_id = $1 and id = $2",
    )
    .bind(project.0)
    .bind(id)
    .fetch_optional(&mut *connection)
    .await?;
    let mut parts = Parts::of(connection, project, Some(id)).await?;
    Ok(flag.map(|flag| parts.detail(flag)))
}

/// What belongs to flags, by flag.
struct Parts {
    env_settings: HashMap<i64, Vec<StoredSetting>>,
    rules: HashMap<i64, Vec<Rule>>,
    variations: HashMap<i64, Vec<Variation>>,
    channels: Vec<String>,
}

impl Parts {
    /// Of one flag, or of all flags of the project.
    async fn of(
        connection: &mut PgConnection,
        project: ProjectId,
        flag: Option<i64>,
    ) -> Result<Self> {
        Ok(Self {
            env_settings: group(env_settings(connection, project, flag).await?, |s| {
                s.flag_id
            }),
            rules: group(rules(connection, project, flag).await?, |rule| rule.flag_id),
            variations: group(variations(connection, project, flag).await?, |v| v.flag_id),
            channels: channels(connection, project).await?,
        })
    }

    fn list_item(&mut self, flag: Flag) -> FlagListItem {
        FlagListItem {
            env_settings: self.env_settings_of(&flag),
            rules: self.rules.remove(&flag.id).unwrap_or_default(),
            variations: self.variations.remove(&flag.id).unwrap_or_default(),
            eval_total_7d: 0,
            eval_by_channel_7d: BTreeMap::new(),
            flag,
        }
    }

    fn detail(&mut self, flag: Flag) -> FlagDetail {
        let mut rules = self.rules.remove(&flag.id).unwrap_or_default();
        rules.sort_by(|a, b| {
            (&a.channel_name, a.priority, a.id).cmp(&(&b.channel_name, b.priority, b.id))
        });
        FlagDetail {
            env_settings: self.env_settings_of(&flag),
            rules,
            variations: self.variations.remove(&flag.id).unwrap_or_default(),
            active_executions: Vec::new(),
            flag,
        }
    }

    /// What is stored, and the flag's own state for the other channels.
    fn env_settings_of(&mut self, flag: &Flag) -> Vec<EnvSetting> {
        let inherited = self.channels.iter().map(|channel| {
            let setting = EnvSetting::inherited(flag, channel);
            (channel.clone(), setting)
        });
        let mut settings: BTreeMap<String, EnvSetting> = inherited.collect();
        for stored in self.env_settings.remove(&flag.id).unwrap_or_default() {
            settings.insert(stored.channel_name.clone(), stored.resolve(flag));
        }
        settings.into_values().collect()
    }
}

fn group<T>(rows: Vec<T>, flag_of: impl Fn(&T) -> i64) -> HashMap<i64, Vec<T>> {
    let mut groups: HashMap<i64, Vec<T>> = HashMap::new();
    for row in rows {
        groups.entry(flag_of(&row)).or_default().push(row);
    }
    groups
}

/// A channel's settings as stored: a part that is none follows the flag.
#[derive(sqlx::FromRow)]
pub(super) struct StoredSetting {
    pub(super) id: i64,
    flag_id: i64,
    channel_name: String,
    pub(super) enabled: Option<bool>,
    pub(super) default_value: Option<Value>,
    created_at: DateTime<Utc>,
}

impl StoredSetting {
    pub(super) fn resolve(self, flag: &Flag) -> EnvSetting {
        EnvSetting {
            id: self.id,
            flag_id: self.flag_id,
            channel_name: self.channel_name,
            enabled: self.enabled.unwrap_or(flag.enabled),
            default_value: self
                .default_value
                .unwrap_or_else(|| flag.default_value.clone()),
            created_at: self.created_at,
            inherited: false,
        }
    }
}

async fn env_settings(
    connection: &mut PgConnection,
    project: ProjectId,
    flag: Option<i64>,
) -> Result<Vec<StoredSetting>> {
    sqlx::query_as(
        "select id, flag_id, channel_name, enabled, default_value, created_at
         from flag_env_settings
         where project_id = $1 and ($2::bigint is null or flag_id = $2)",
    )
    .bind(project.0)
    .bind(flag)
    .fetch_all(connection)
    .await
}

async fn rules(
    connection: &mut PgConnection,
    project: ProjectId,
    flag: Option<i64>,
) -> Result<Vec<Rule>> {
    sqlx::query_as(
        "select id, flag_id, priority, rule_type, variant_value, rule_config, channel_name, created_at
         from flag_rules
         where project_id = $1 and ($2::bigint is null or flag_id = $2)
         order by priority, id",
    )
    .bind(project.0)
    .bind(flag)
    .fetch_all(connection)
    .await
}

pub(super) async fn variations(
    connection: &mut PgConnection,
    project: ProjectId,
    flag: Option<i64>,
) -> Result<Vec<Variation>> {
    sqlx::query_as(
        "select id, flag_id, value, name, description, sort_order, created_at
         from flag_variations
         where project_id = $1 and ($2::bigint is null or flag_id = $2)
         order by sort_order, id",
    )
    .bind(project.0)
    .bind(flag)
    .fetch_all(connection)
    .await
}

async fn channels(connection: &mut PgConnection, project: ProjectId) -> Result<Vec<String>> {
    sqlx::query_scalar("select name from channels where project_id = $1")
        .bind(project.0)
        .fetch_all(connection)
        .await
}
