//! Making an update: where it goes, and that it is the newest there.
//!
//! Devices load an update only if its time is later than that of the one they
//! run, in whole milliseconds (expo-updates.md §4). So each branch hands out
//! times one after another: a change locks its branches before it adds to them,
//! all of them in one order.

use serde_json::Value;
use sqlx::FromRow;
use uuid::Uuid;

use super::links::{self, Link};
use crate::change::Change;
use crate::error::{ApiError, ApiResult};
use crate::text;

type Result<T> = std::result::Result<T, sqlx::Error>;

/// Where a channel leads.
#[derive(Debug, FromRow)]
pub(super) struct Destination {
    pub(super) branch: String,
    /// The branch that some devices of the channel get instead.
    pub(super) rollout_branch: Option<String>,
}

/// The branch of a channel, which stays so until the change is made; a channel
/// that nobody configured means the branch of its own name.
pub(super) async fn destination(change: &mut Change, channel: &str) -> Result<Destination> {
    let configured = sqlx::query_as(
        "select branch_name as branch,
                case when rollout_percentage > 0 then rollout_branch_name end as rollout_branch
         from channels where project_id = $1 and name = $2 for share",
    )
    .bind(change.project())
    .bind(channel)
    .fetch_optional(change.connection())
    .await?;
    Ok(configured.unwrap_or_else(|| Destination {
        branch: channel.to_owned(),
        rollout_branch: None,
    }))
}

/// Lets nobody else add to these branches until the change is made.
pub(super) async fn lock_branches(change: &mut Change, mut branches: Vec<&str>) -> Result<()> {
    branches.sort_unstable();
    branches.dedup();
    for branch in branches {
        sqlx::query("select pg_advisory_xact_lock(hashtextextended($1::text || '/' || $2, 0))")
            .bind(change.project())
            .bind(branch)
            .execute(change.connection())
            .await?;
    }
    Ok(())
}

/// As [`lock_branches`], for those that these channels lead to.
pub(super) async fn lock_destinations(change: &mut Change, channels: &[String]) -> Result<()> {
    let mut branches = Vec::new();
    for channel in channels {
        branches.push(destination(change, channel).await?.branch);
    }
    lock_branches(change, branches.iter().map(String::as_str).collect()).await
}

/// What an update delivers, and to which apps.
#[derive(Debug, FromRow)]
pub(super) struct Content {
    pub(super) build_id: Option<i64>,
    pub(super) runtime_version: String,
    pub(super) runtime_fingerprint: Option<String>,
    pub(super) platform: String,
    pub(super) expo_config: Value,
}

/// How it is delivered.
#[derive(Clone, Debug)]
pub(super) struct Terms {
    pub(super) rollout_percentage: i32,
    pub(super) is_critical: bool,
    pub(super) release_message: String,
    pub(super) group_id: String,
}

/// What kind of row it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Normal,
    /// To the bundle inside the app, or to an update.
    Rollback {
        to: Option<i64>,
    },
}

/// A new row.
#[derive(Clone, Debug, FromRow)]
pub(super) struct Made {
    pub(super) id: i64,
    pub(super) update_uuid: Uuid,
}

/// Adds an update to a branch that this change has locked, as its newest.
pub(super) async fn insert(
    change: &mut Change,
    (channel, branch): (&str, &str),
    content: &Content,
    terms: &Terms,
    kind: Kind,
) -> Result<Made> {
    let (is_rollback, target) = match kind {
        Kind::Normal => (false, None),
        Kind::Rollback { to } => (true, to),
    };
    sqlx::query_as(
        "insert into updates (project_id, channel, branch_name, build_id, runtime_version,
                              runtime_fingerprint, platform, expo_config, rollout_percentage,
                              is_critical, release_message, group_id, is_rollback,
                              rollback_to_update_id, created_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14,
                 greatest(date_trunc('milliseconds', $15::timestamptz),
                          (select max(created_at) from updates where project_id = $1
                           and branch_name = $3 and platform = 'ios') + interval '1 millisecond',
                          (select max(created_at) from updates where project_id = $1
                           and branch_name = $3 and platform = 'android') + interval '1 millisecond'))
         returning id, update_uuid",
    )
    .bind(change.project())
    .bind(channel)
    .bind(branch)
    .bind(content.build_id)
    .bind(&content.runtime_version)
    .bind(&content.runtime_fingerprint)
    .bind(&content.platform)
    .bind(&content.expo_config)
    .bind(terms.rollout_percentage)
    .bind(terms.is_critical)
    .bind(&terms.release_message)
    .bind(&terms.group_id)
    .bind(is_rollback)
    .bind(target)
    .bind(change.at())
    .fetch_one(change.connection())
    .await
}

/// Publishes to one channel: the row, without its assets, and its linked flags.
///
/// All that a release sets in motion belongs in here, in the same transaction.
pub(super) async fn publish(
    change: &mut Change,
    channel: &str,
    content: &Content,
    terms: &Terms,
    kind: Kind,
    linked: &[Link],
) -> ApiResult<Made> {
    let destination = destination(change, channel).await?;
    lock_branches(change, vec![&destination.branch]).await?;
    let place = (channel, destination.branch.as_str());
    let made = insert(change, place, content, terms, kind).await?;
    links::attach(change, &terms.group_id, channel, linked).await?;
    Ok(made)
}

/// The group of a release that names none.
pub(super) fn new_group() -> String {
    Uuid::new_v4().to_string()
}

/// `ios` or `android`.
pub(super) fn platform(given: &str) -> ApiResult<String> {
    match given {
        "ios" | "android" => Ok(given.to_owned()),
        _ => Err(ApiError::bad_request("platform must be ios or android")),
    }
}

/// Not blank.
pub(super) fn runtime_version(given: &str) -> ApiResult<String> {
    text::required("runtimeVersion", given, text::NAME_CHARS)
}

/// Not blank; need not be configured.
pub(super) fn channel(given: &str) -> ApiResult<String> {
    text::required("channel", given, text::NAME_CHARS)
}

/// From 0 to 100; 100 if absent.
pub(super) fn rollout_percentage(given: Option<i64>) -> ApiResult<i32> {
    text::percentage("rolloutPercentage", given.unwrap_or(100))
}

/// As given; empty if absent.
pub(super) fn release_message(given: Option<String>) -> ApiResult<String> {
    text::capped(
        "releaseMessage",
        given.unwrap_or_default(),
        text::MESSAGE_CHARS,
    )
}

/// A small JSON object.
pub(super) fn expo_config(given: Value) -> ApiResult<Value> {
    if !given.is_object() {
        return Err(ApiError::bad_request("expoConfig must be a JSON object"));
    }
    text::small_json("expoConfig", given)
}
