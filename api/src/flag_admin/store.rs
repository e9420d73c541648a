use serde_json::Value;

use super::input::{NewFlag, NewVariation};
use super::model::{Flag, Variation};
use super::reads;
use crate::change::Change;
use crate::error::{ApiError, ApiResult};
use crate::flags::eval::FlagType;
use crate::scope::Actor;
use crate::version::Version;
use sluice_schema::id::ProjectId;

type Result<T> = std::result::Result<T, sqlx::Error>;

/// A flag whose row this change has locked, and its variations.
pub(super) struct Locked {
    pub(super) flag: Flag,
    pub(super) flag_type: FlagType,
    pub(super) variations: Vec<Variation>,
}

impl Locked {
    /// Of the flag and all that belongs to it.
    pub(super) fn version(&self) -> Version {
        Version::of(self.flag.updated_at)
    }
}

/// Locks a flag for a change, which comes after all that were made to it; 404 if
/// there is none.
pub(super) async fn lock(change: &mut Change, id: i64) -> ApiResult<Locked> {
    let flag: Option<Flag> = sqlx::query_as(
        "select id, project_id, name, key, flag_type, default_value, enabled, description,
                created_by_name, created_at, updated_at
         from flags where project_id = $1 and id = $2 for update",
    )
    .bind(change.project())
    .bind(id)
    .fetch_optional(change.connection())
    .await?;
    let flag = flag.ok_or_else(|| ApiError::not_found("flag"))?;
    // Which of two switches was set later decides between them.
    change.come_after(flag.updated_at);
    let flag_type = FlagType::parse(&flag.flag_type)
        .ok_or_else(|| ApiError::internal("a stored flag type is unknown"))?;
    let project = ProjectId(change.project());
    let variations = reads::variations(change.connection(), project, Some(id)).await?;
    Ok(Locked {
        flag,
        flag_type,
        variations,
    })
}

/// Notes that the flag, or something that belongs to it, has changed.
pub(super) async fn touch(change: &mut Change, flag: i64) -> Result<()> {
    sqlx::query("update flags set updated_at = $3 where project_id = $1 and id = $2")
        .bind(change.project())
        .bind(flag)
        .bind(change.at())
        .execute(change.connection())
        .await?;
    Ok(())
}

/// Makes a flag with its variations; its id.
pub(super) async fn insert(change: &mut Change, new: &NewFlag) -> Result<i64> {
    let created_by = change.actor().map(Actor::name).map(str::to_owned);
    let id = sqlx::query_scalar(
        "insert into flags (project_id, key, name, flag_type, default_value, enabled,
                            description, created_by_name, enabled_changed_at, created_at, updated_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $9, $9) returning id",
    )
    .bind(change.project())
    .bind(&new.key)
    .bind(&new.name)
    .bind(new.flag_type.name())
    .bind(&new.default_value)
    .bind(new.enabled)
    .bind(&new.description)
    .bind(created_by)
    .bind(change.at())
    .fetch_one(change.connection())
    .await?;
    for (sort_order, variation) in (0..).zip(&new.variations) {
        insert_variation(change, id, variation, sort_order).await?;
    }
    Ok(id)
}

async fn insert_variation(
    change: &mut Change,
    flag: i64,
    new: &NewVariation,
    sort_order: i32,
) -> Result<()> {
    sqlx::query(
        "insert into flag_variations (project_id, flag_id, value, name, description, sort_order, created_at)
         values ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(change.project())
    .bind(flag)
    .bind(&new.value)
    .bind(&new.name)
    .bind(&new.description)
    .bind(sort_order)
    .bind(change.at())
    .execute(change.connection())
    .await?;
    Ok(())
}

/// What is to become of a flag; absent: as it is.
#[derive(Debug, Default)]
#[allow(clippy::option_option)] // absent, cleared, value
pub(super) struct FlagChange {
    pub(super) name: Option<String>,
    pub(super) default_value: Option<Value>,
    pub(super) enabled: Option<bool>,
    pub(super) description: Option<Option<String>>,
}

/// Changes a flag. The switch's time moves only if the switch does.
pub(super) async fn update(change: &mut Change, id: i64, to: &FlagChange) -> Result<Flag> {
    sqlx::query_as(
        "update flags set
            name = coalesce($3, name),
            default_value = coalesce($4, default_value),
            enabled = coalesce($5, enabled),
            enabled_changed_at = case when $5 <> enabled then $8 else enabled_changed_at end,
            description = case when $6 then $7 else description end,
            updated_at = $8
         where project_id = $1 and id = $2
         returning id, project_id, name, key, flag_type, default_value, enabled, description,
                   created_by_name, created_at, updated_at",
    )
    .bind(change.project())
    .bind(id)
    .bind(&to.name)
    .bind(&to.default_value)
    .bind(to.enabled)
    .bind(to.description.is_some())
    .bind(to.description.as_ref().and_then(Option::as_ref))
    .bind(change.at())
    .fetch_one(change.connection())
    .await
}

/// Switches off a flag that is off already, where a release made since then
/// switches it on for some: an explicit kill always wins (flags.md §8). Whether
/// there is such a release.
pub(super) async fn kill_overrides(change: &mut Change, id: i64) -> Result<bool> {
    let kill = sqlx::query(
        "update flags f set enabled_changed_at = $3
         where f.project_id = $1 and f.id = $2 and not f.enabled
           and exists (select from release_links l
                       where l.project_id = f.project_id and l.flag_id = f.id
                         and l.state = 'active' and l.link_type = 'kill_switch'
                         and l.created_at >= f.enabled_changed_at)",
    );
    let killed = kill.bind(change.project()).bind(id).bind(change.at());
    Ok(killed.execute(change.connection()).await?.rows_affected() == 1)
}

/// The key of the flag that was.
pub(super) async fn delete(change: &mut Change, id: i64) -> Result<Option<String>> {
    sqlx::query_scalar("delete from flags where project_id = $1 and id = $2 returning key")
        .bind(change.project())
        .bind(id)
        .fetch_optional(change.connection())
        .await
}
