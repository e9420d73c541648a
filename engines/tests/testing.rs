//! Every test gets a database of its own, of one server that all share.

use std::collections::HashSet;

use sluice_engines::testing;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Executor};

#[tokio::test]
async fn each_postgres_database_is_empty() {
    let (mut servers, mut databases) = (HashSet::new(), HashSet::new());
    for _ in 0..3 {
        let options: PgConnectOptions = testing::postgres().parse().unwrap();
        let mut connection = options.connect().await.unwrap();
        connection.execute("create table t (a int)").await.unwrap();
        servers.insert((options.get_host().to_owned(), options.get_port()));
        databases.insert(options.get_database().unwrap().to_owned());
    }
    assert_eq!((servers.len(), databases.len()), (1, 3));
}

#[test]
fn each_clickhouse_database_has_its_own_name() {
    let (first, second) = (testing::clickhouse(), testing::clickhouse());
    assert_eq!(first.url, second.url);
    assert_ne!(first.database, second.database);
}
