//! The tables of ClickHouse, as numbered migrations.
//!
//! Each statement may run twice, and by two at once: a migration that was cut
//! short is simply run again. Tables are named without their database, which
//! the connection chooses. A migration that has been released never changes.

pub mod folds;
pub mod ledger;
pub mod places;

/// One step.
#[derive(Clone, Copy, Debug)]
pub struct Migration {
    /// Its place in the order.
    pub number: u32,
    /// What it is about.
    pub name: &'static str,
    sql: &'static str,
}

impl Migration {
    /// Its statements, in order.
    pub fn statements(&self) -> impl Iterator<Item = &'static str> {
        let is_code = |line: &str| !line.trim().is_empty() && !line.starts_with("--");
        let statements = self.sql.split(";\n").map(str::trim);
        statements.filter(move |statement| statement.lines().any(is_code))
    }
}

/// All of them, in order.
pub const MIGRATIONS: &[Migration] = &[
    Migration {
        number: 1,
        name: "raw",
        sql: include_str!("../clickhouse/0001_raw.sql"),
    },
    Migration {
        number: 2,
        name: "folds",
        sql: include_str!("../clickhouse/0002_folds.sql"),
    },
    Migration {
        number: 3,
        name: "event_hours",
        sql: include_str!("../clickhouse/0003_event_hours.sql"),
    },
    Migration {
        number: 4,
        name: "evaluations",
        sql: include_str!("../clickhouse/0004_evaluations.sql"),
    },
    Migration {
        number: 5,
        name: "downloads",
        sql: include_str!("../clickhouse/0005_downloads.sql"),
    },
    Migration {
        number: 6,
        name: "flag_devices",
        sql: include_str!("../clickhouse/0006_flag_devices.sql"),
    },
    Migration {
        number: 7,
        name: "updates_by_day",
        sql: include_str!("../clickhouse/0007_updates_by_day.sql"),
    },
];

/// Newest inserts whose tokens each table remembers that gets rows by insert.
pub const DEDUPLICATION_WINDOW: u64 = 100_000;

/// How a batch is inserted. Each of these matters for exactly-once
/// (docs/decisions/0011): one block an insert, deduplicated by token in the
/// table and in every view behind it.
pub const EXACTLY_ONCE_SETTINGS: [(&str, &str); 10] = [
    ("async_insert", "0"),
    ("deduplicate_insert", "enable"),
    ("deduplicate_blocks_in_dependent_materialized_views", "1"),
    ("materialized_views_ignore_errors", "0"),
    ("max_insert_threads", "1"),
    ("max_insert_block_size", "1048576"),
    ("min_insert_block_size_rows", "1048576"),
    ("min_insert_block_size_bytes", "1073741824"),
    ("parallel_view_processing", "0"),
    // A backlog of quiet days has many hours in one batch, each a partition.
    ("max_partitions_per_insert_block", "0"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_what_the_writer_takes_them_for() {
        let sql: Vec<&str> = MIGRATIONS.iter().flat_map(Migration::statements).collect();
        let windows = sql
            .iter()
            .filter_map(|statement| statement.split_once("deduplication_window = "));
        let mut found = 0;
        for (_, value) in windows {
            assert!(
                value.starts_with(&format!("{DEDUPLICATION_WINDOW},")),
                "{value}"
            );
            found += 1;
        }
        assert!(found >= 3, "raw and every table behind it has a window");
    }

    #[test]
    fn migrations_are_numbered_in_order_and_may_run_twice() {
        for (migration, number) in MIGRATIONS.iter().zip(1..) {
            assert_eq!(migration.number, number);
            for statement in migration.statements() {
                // What the ledger forgets is folded again.
                let idempotent = [
                    "IF NOT EXISTS",
                    "DROP COLUMN IF EXISTS",
                    "MODIFY TTL",
                    "MODIFY SETTING",
                    "DELETE FROM folds",
                ];
                assert!(
                    idempotent.iter().any(|words| statement.contains(words)),
                    "{statement}"
                );
            }
        }
    }
}
