//! Brings a ClickHouse database to this release's tables.
//!
//! Run by `sluice-aggregator --migrate` and at every start. ClickHouse has no
//! transactions over DDL and no lock to hold, so what makes it safe is that
//! each statement may run twice and by two at once: the record of what ran
//! only saves work.

use std::collections::HashSet;

use clickhouse::Client;
use clickhouse::error::Result;
use sluice_schema::clickhouse::MIGRATIONS;

use crate::config::ClickHouseConfig;

const RECORD: &str = "CREATE TABLE IF NOT EXISTS schema_migrations \
     (number UInt32, name String, applied_at DateTime('UTC') DEFAULT now()) \
     ENGINE = MergeTree ORDER BY number";

/// Creates the database if it is not there, and runs what has not run.
pub async fn run(config: &ClickHouseConfig) -> Result<()> {
    let database = config.database.replace('`', "");
    let create = format!("CREATE DATABASE IF NOT EXISTS `{database}`");
    let server = config.client().with_database("default");
    server.query(&create).execute().await?;
    run_in(&config.client()).await
}

/// Runs what has not run in the client's database.
pub async fn run_in(client: &Client) -> Result<()> {
    client.query(RECORD).execute().await?;
    let applied = client.query("SELECT number FROM schema_migrations");
    let applied: HashSet<u32> = applied.fetch_all().await?.into_iter().collect();
    for migration in MIGRATIONS {
        if applied.contains(&migration.number) {
            continue;
        }
        for statement in migration.statements() {
            client.query_raw(statement).execute().await?;
        }
        let record = "INSERT INTO schema_migrations (number, name) VALUES (?, ?)";
        let record = client.query(record).bind(migration.number);
        record.bind(migration.name).execute().await?;
        tracing::info!(migration.number, migration.name, "ClickHouse migrated");
    }
    Ok(())
}
