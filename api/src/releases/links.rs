//! Flags that are attached to a release (management.md §7.3, rollouts.md §7).
//! How a link decides an evaluation is in `flags`.

use serde::Deserialize;
use serde_json::Value;
use sqlx::FromRow;
use utoipa::ToSchema;

use crate::change::Change;
use crate::error::{ApiError, ApiResult};
use crate::flags::eval;

const MAX_LINKS: usize = 100;

/// A flag to attach.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LinkedFlag {
    /// A flag of the project.
    flag_id: i64,
    /// On or off for devices that run the release.
    enabled: bool,
    /// A variation of the flag, for flags that are no switches. If absent, the
    /// first that differs from the channel's default.
    variation_id: Option<i64>,
    /// The same, by the variation's value.
    value: Option<Value>,
    /// `kill_switch` (the default), `gate` or `monitor`.
    link_type: Option<String>,
}

/// A link that passed validation.
#[derive(Debug)]
pub(super) struct Link {
    flag_id: i64,
    enabled: bool,
    variation: Chosen,
    kind: String,
}

#[derive(Debug)]
enum Chosen {
    Id(i64),
    Value(Value),
    Implied,
}

/// The checks that need no database.
pub(super) fn check(given: Option<Vec<LinkedFlag>>) -> ApiResult<Vec<Link>> {
    let given = given.unwrap_or_default();
    if given.len() > MAX_LINKS {
        let message = format!("linkedFlags must have at most {MAX_LINKS} entries");
        return Err(ApiError::bad_request(message));
    }
    given.into_iter().map(LinkedFlag::check).collect()
}

impl LinkedFlag {
    fn check(self) -> ApiResult<Link> {
        let link_type = self.link_type.unwrap_or_else(|| "kill_switch".to_owned());
        if !matches!(link_type.as_str(), "kill_switch" | "gate" | "monitor") {
            let message = "linkedFlags.linkType must be kill_switch, gate or monitor";
            return Err(ApiError::bad_request(message));
        }
        let variation = match (self.variation_id, self.value) {
            (Some(id), _) => Chosen::Id(id),
            (None, Some(value)) => Chosen::Value(value),
            (None, None) => Chosen::Implied,
        };
        Ok(Link {
            flag_id: self.flag_id,
            enabled: self.enabled,
            variation,
            kind: link_type,
        })
    }
}

/// Links the flags to a release on a channel. What another platform of the
/// release has linked already keeps its time and its state.
pub(super) async fn attach(
    change: &mut Change,
    group_id: &str,
    channel: &str,
    links: &[Link],
) -> ApiResult<()> {
    for link in links {
        let variation = variation(change, channel, link).await?;
        sqlx::query(
            "insert into release_links (project_id, group_id, channel, flag_id, link_type, enabled,
                                        variation_id, created_at)
             values ($1, $2, $3, $4, $5, $6, $7, $8)
             on conflict on constraint release_links_flag_key do update
                set link_type = excluded.link_type, enabled = excluded.enabled,
                    variation_id = excluded.variation_id
                where (release_links.link_type, release_links.enabled, release_links.variation_id)
                      is distinct from (excluded.link_type, excluded.enabled, excluded.variation_id)",
        )
        .bind(change.project())
        .bind(group_id)
        .bind(channel)
        .bind(link.flag_id)
        .bind(&link.kind)
        .bind(link.enabled)
        .bind(variation)
        .bind(change.at())
        .execute(change.connection())
        .await?;
    }
    Ok(())
}

#[derive(FromRow)]
struct FlagRow {
    flag_type: String,
    channel_default: Value,
}

/// The variation that a link means, if any. Also checks that the flag is of
/// this project, and keeps it.
async fn variation(change: &mut Change, channel: &str, link: &Link) -> ApiResult<Option<i64>> {
    let flag: Option<FlagRow> = sqlx::query_as(
        "select f.flag_type,
                coalesce((select e.default_value from flag_env_settings e
                          where e.flag_id = f.id and e.channel_name = $3),
                         f.default_value) as channel_default
         from flags f where f.project_id = $1 and f.id = $2 for key share of f",
    )
    .bind(change.project())
    .bind(link.flag_id)
    .bind(channel)
    .fetch_optional(change.connection())
    .await?;
    let flag = flag.ok_or_else(|| no_such(link, "flag"))?;
    let variations: Vec<(i64, Value)> = sqlx::query_as(
        "select id, value from flag_variations where project_id = $1 and flag_id = $2
         order by sort_order, id",
    )
    .bind(change.project())
    .bind(link.flag_id)
    .fetch_all(change.connection())
    .await?;
    let find = |matches: &dyn Fn(&(i64, Value)) -> bool| {
        variations
            .iter()
            .find(|variation| matches(variation))
            .map(|(id, _)| *id)
    };
    let unknown = || no_such(link, "variation of the flag");
    match &link.variation {
        Chosen::Id(id) => find(&|(other, _)| other == id)
            .ok_or_else(unknown)
            .map(Some),
        Chosen::Value(value) => find(&|(_, other)| eval::equal(other, value))
            .ok_or_else(unknown)
            .map(Some),
        Chosen::Implied if flag.flag_type == "boolean" || !link.enabled => Ok(None),
        Chosen::Implied => Ok(find(&|(_, value)| {
            !eval::equal(value, &flag.channel_default)
        })),
    }
}

fn no_such(link: &Link, what: &str) -> ApiError {
    let id = link.flag_id;
    ApiError::bad_request(format!("linkedFlags: flag {id}: there is no such {what}"))
}
