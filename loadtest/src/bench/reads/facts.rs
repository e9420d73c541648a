//! The facts that a hundred million events, or ten, leave behind, made in place.

use std::collections::HashMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clickhouse::Client;
use clickhouse::query::Query;
use sluice_schema::clickhouse::folds::SETTINGS;
use sluice_schema::clickhouse::ledger::{DAY_S, HOUR_S};
use sqlx::PgPool;

use crate::verify::ClickHouse;
use crate::{Error, PROJECT};

const SQL: &str = include_str!("facts.sql");
const PROJECTS: u64 = 20;
/// Of other projects than the largest, which exists.
const FIRST_OTHER: u64 = 1_000;
/// Devices a day of all projects for a hundred million events; the largest
/// project has 250,000 of them.
const DEVICES: f64 = 675_676.0;
const OF_LARGEST: f64 = 0.37;
const FULL: f64 = 100e6;
/// Whole days before today that are made of device-hours; with the hours of
/// today as many as so many events are worth.
const DAYS: u32 = 3;
/// As far as any question looks back, and as far as those by update may.
const COPIES: [(&str, u32); 3] = [("daily", 30), ("daily_flags", 30), ("daily_maps", 10)];
const FOLDED_WITHIN: Duration = Duration::from_mins(20);
const POLL: Duration = Duration::from_secs(1);
const SELECTS: u32 = 200;

/// The store under test.
pub(super) struct Store {
    client: Client,
}

/// Folds of open hours.
pub(super) struct OpenFolds {
    pub(super) count: u64,
    /// How long they took on average.
    pub(super) seconds: f64,
}

impl Store {
    pub(super) fn new(of: &ClickHouse) -> Self {
        let client = Client::default()
            .with_url(&of.url)
            .with_database(&of.database)
            .with_user(&of.user)
            .with_password(&of.password)
            .with_setting("max_threads", "2")
            .with_setting("max_insert_threads", "1")
            .with_setting("max_memory_usage", "3000000000");
        let client = SETTINGS.into_iter().fold(client, |client, (name, value)| {
            client.with_setting(name, value)
        });
        Self { client }
    }

    fn statement(&self, name: &str) -> Query {
        let statements = statements();
        self.client
            .query_raw(statements.get(name).copied().unwrap_or_default())
    }

    async fn run(&self, name: &str) -> Result<(), Error> {
        Ok(self.statement(name).execute().await?)
    }

    /// Rows of a table.
    pub(super) async fn count(&self, table: &str) -> Result<u64, Error> {
        let count = format!("SELECT count() FROM {table}");
        Ok(self.client.query(&count).fetch_one().await?)
    }

    /// Folds of open hours that were done in the last so many seconds. The ledger
    /// forgets them after two minutes.
    pub(super) async fn open_folds(&self, last: u64) -> Result<OpenFolds, Error> {
        let query = "SELECT count(), avg(toUnixTimestamp64Milli(done) / 1000 - ver / 1000000) \
             FROM folds WHERE kind = 'now' AND done > now64(3) - toIntervalSecond(?)";
        let query = self.client.query(query).bind(last);
        let (count, seconds) = query.fetch_one().await?;
        Ok(OpenFolds { count, seconds })
    }

    /// A version that is newer than every answer.
    pub(super) async fn outdate_answers(&self) -> Result<(), Error> {
        self.run("outdate_answers").await
    }

    /// Until the process has folded all hours that are over, and their days.
    pub(super) async fn wait_until_folded(&self) -> Result<(), Error> {
        let missing = "SELECT count() FROM (SELECT DISTINCT hour FROM device_hours \
             WHERE hour < toStartOfHour(now() - INTERVAL 2 MINUTE)) AS made LEFT ANTI JOIN \
             (SELECT arrayJoin(parts).1 AS part FROM folds WHERE kind = 'day') AS folded \
             ON toUnixTimestamp(hour) = part";
        self.wait_for_none(missing).await
    }

    /// Until nothing is merged.
    pub(super) async fn wait_until_merged(&self) -> Result<(), Error> {
        self.wait_for_none("SELECT count() FROM system.merges")
            .await
    }

    async fn wait_for_none(&self, query: &str) -> Result<(), Error> {
        let deadline = Instant::now() + FOLDED_WITHIN;
        while self.client.query(query).fetch_one::<u64>().await? > 0 {
            if Instant::now() > deadline {
                return Err(format!("does not come to rest: {query}").into());
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    /// Folded days under earlier dates.
    pub(super) async fn copy_days(&self) -> Result<(), Error> {
        let most = COPIES.iter().map(|(_, times)| *times).max();
        for (table, times) in COPIES {
            let copy = self.statement("copy_days").param("table", table);
            copy.param("every", DAYS)
                .param("times", times)
                .execute()
                .await?;
        }
        let copied = self.statement("copied_days").param("every", DAYS);
        Ok(copied.param("times", most).execute().await?)
    }

    /// What the least of questions costs one reader, in milliseconds.
    pub(super) async fn select_1_ms(&self) -> Result<f64, Error> {
        let started = Instant::now();
        for _ in 0..SELECTS {
            self.client.query("SELECT 1").fetch_one::<u8>().await?;
        }
        Ok(started.elapsed().as_secs_f64() * 1_000.0 / f64::from(SELECTS))
    }
}

/// Makes the facts of so many events, and the flags and updates that they name.
pub(super) async fn make(
    store: &Store,
    postgres_url: &str,
    events: u64,
    say: &impl Fn(&str),
) -> Result<(), Error> {
    let pool = PgPool::connect(postgres_url).await?;
    let largest = configure(&pool).await?;
    pool.close().await;
    store.run("devices_table").await?;
    for (project, daily) in projects(largest as u64, events) {
        let devices = store.statement("devices").param("project", project);
        devices.param("daily", daily).execute().await?;
        for name in ["flag_maps", "evaluation_hours"] {
            store
                .statement(name)
                .param("project", project)
                .execute()
                .await?;
        }
    }
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() as u32;
    let from = now_s / DAY_S * DAY_S - DAYS * DAY_S;
    for hour in (from..now_s).step_by(HOUR_S as usize) {
        store
            .statement("device_hours")
            .param("h", hour)
            .execute()
            .await?;
    }
    say("device-hours are made; downloads");
    for name in [
        "updates_served",
        "device_updates_served",
        "device_updates_running",
        "client_devices",
        "download_hours",
        "drop_served",
        "drop_devices",
    ] {
        store.run(name).await?;
    }
    Ok(())
}

/// Projects with their devices a day. The largest is there already.
fn projects(largest: u64, events: u64) -> Vec<(u64, u64)> {
    let all = DEVICES * events as f64 / FULL;
    let weight = |n: u64| 1.0 / (n + 1) as f64;
    let weights: f64 = (1..PROJECTS).map(weight).sum();
    let others = (1..PROJECTS).map(|n| {
        let share = (1.0 - OF_LARGEST) * weight(n) / weights;
        (FIRST_OTHER + n, (all * share) as u64)
    });
    let largest = (largest, (all * OF_LARGEST) as u64);
    std::iter::once(largest).chain(others).collect()
}

/// Forty flags and thirty updates for the project of the load; its id.
async fn configure(pool: &PgPool) -> Result<i64, Error> {
    let project: i64 = sqlx::query_scalar("select id from projects where slug = $1")
        .bind(PROJECT)
        .fetch_one(pool)
        .await?;
    sqlx::query(
        "with flag as (insert into flags (project_id, key, name, flag_type, default_value, created_at)
             select $1, key, key, 'boolean', 'false', now() - interval '1 year'
             from (select 'bench-flag-' || lpad(n::text, 2, '0') as key from generate_series(0, 39) n) keys
             returning id)
         insert into flag_variations (project_id, flag_id, value, sort_order)
         select $1, id, value, place
         from flag, (values ('true'::jsonb, 0), ('false'::jsonb, 1)) as variation (value, place)",
    )
    .bind(project)
    .execute(pool)
    .await?;
    sqlx::query(
        "insert into updates (project_id, update_uuid, runtime_version, platform, channel, branch_name, group_id)
         select $1, (lpad($1::text, 8, '0') || '-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid,
             '1.0.0', 'ios', (array['production', 'staging', 'beta'])[n / 10 + 1], 'main', 'bench-' || n
         from generate_series(0, 29) n",
    )
    .bind(project)
    .execute(pool)
    .await?;
    Ok(project)
}

/// The statements of the file by name.
fn statements() -> HashMap<&'static str, &'static str> {
    let parts = SQL.split("\n-- @").skip(1);
    let named = parts.filter_map(|part| part.split_once('\n'));
    named
        .map(|(name, sql)| (name.trim(), sql.trim_end().trim_end_matches(';')))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_project_has_250_000_devices_a_day() {
        let projects = projects(7, 100_000_000);
        assert_eq!(projects[0], (7, 250_000));
        assert_eq!(projects.len() as u64, PROJECTS);
        let all: u64 = projects.iter().map(|(_, daily)| daily).sum();
        assert!((675_000..=675_676).contains(&all), "{all}");
    }

    #[test]
    fn every_statement_has_a_name() {
        let statements = statements();
        assert_eq!(statements.len(), SQL.matches("\n-- @").count());
        for (name, sql) in statements {
            let body: Vec<&str> = sql.lines().filter(|line| !line.starts_with("--")).collect();
            assert!(!body.is_empty(), "{name}");
            assert!(!body.concat().contains(';'), "{name}");
        }
    }
}
