//! How many things of a kind a project has at most. Each request reads all of
//! them, or one per flag, so that numbers without end would be one project's way
//! to slow down all others. No project of people gets near them.

use crate::change::Change;
use crate::error::{ApiError, ApiResult};

/// The most that there may be of something.
pub(crate) struct Cap {
    /// Its table, which is also what it is called.
    table: &'static str,
    max: i64,
}

const fn cap(table: &'static str, max: i64) -> Cap {
    Cap { table, max }
}

/// Every one is a line of every flag (management.md §10.4).
pub(crate) const CHANNELS: Cap = cap("channels", 500);
/// A list has all of them, and so has every process that evaluates.
pub(crate) const FLAGS: Cap = cap("flags", 5_000);
/// As flags.
pub(crate) const SEGMENTS: Cap = cap("segments", 1_000);
/// Each change is told to all of them (management.md §1.4).
pub(crate) const WEBHOOKS: Cap = cap("webhooks", 50);
/// Of one flag; an evaluation may try all of them.
pub(crate) const FLAG_RULES: Cap = cap("flag_rules", 500);
/// Of one flag; channels need not be configured.
pub(crate) const FLAG_SETTINGS: Cap = cap("flag_env_settings", CHANNELS.max);

impl Cap {
    /// 400 if the project has as many as it may have. The lock makes the count
    /// hold until the change is made.
    pub(crate) async fn leave_room(&self, change: &mut Change) -> ApiResult<()> {
        let project = change.project();
        sqlx::query("select from projects where id = $1 for no key update")
            .bind(project)
            .execute(change.connection())
            .await?;
        let count = format!("select count(*) from {} where project_id = $1", self.table);
        let count: i64 = sqlx::query_scalar(&count)
            .bind(project)
            .fetch_one(change.connection())
            .await?;
        self.compare(count, "project", self.table)
    }

    /// The same for a flag, which this change has locked.
    pub(crate) async fn leave_room_in(
        &self,
        change: &mut Change,
        flag: i64,
        what: &str,
    ) -> ApiResult<()> {
        let count = format!(
            "select count(*) from {} where project_id = $1 and flag_id = $2",
            self.table
        );
        let count: i64 = sqlx::query_scalar(&count)
            .bind(change.project())
            .bind(flag)
            .fetch_one(change.connection())
            .await?;
        self.compare(count, "flag", what)
    }

    fn compare(&self, count: i64, owner: &str, what: &str) -> ApiResult<()> {
        if count < self.max {
            return Ok(());
        }
        let message = format!("a {owner} has at most {} {what}", self.max);
        Err(ApiError::bad_request(message))
    }
}
