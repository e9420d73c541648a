//! Every test gets a database of its own, cheaply.

use std::time::{Duration, Instant};

use sluice_engines::testing;
use sqlx::{Connection, Executor, PgConnection};

/// With room for a busy machine; 20 ms is usual.
const CHEAP: Duration = Duration::from_millis(500);

#[tokio::test]
async fn each_postgres_database_is_empty() {
    testing::postgres();
    for _ in 0..3 {
        let started = Instant::now();
        let url = testing::postgres();
        let took = started.elapsed();
        assert!(took < CHEAP, "{took:?}");
        let mut connection = PgConnection::connect(&url).await.unwrap();
        connection.execute("create table t (a int)").await.unwrap();
    }
}

#[test]
fn each_clickhouse_database_has_its_own_name() {
    let first = testing::clickhouse();
    let started = Instant::now();
    let second = testing::clickhouse();
    let took = started.elapsed();
    assert!(took < CHEAP, "{took:?}");
    assert_eq!(first.url, second.url);
    assert_ne!(first.database, second.database);
}
