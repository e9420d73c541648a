//! The server keeps its data over a stop and over a kill.

#![allow(clippy::unwrap_used, reason = "helpers of a test")]

use std::fs;
use std::os::unix::fs::PermissionsExt;

use sluice_engines::Postgres;
use sluice_engines::postgres::Durability;
use sqlx::{Connection, Executor, PgConnection};
use tempfile::TempDir;

/// A directory that the unprivileged user may enter.
fn directory() -> TempDir {
    tempfile::Builder::new()
        .permissions(fs::Permissions::from_mode(0o755))
        .tempdir()
        .unwrap()
}

async fn connect(server: &Postgres) -> PgConnection {
    PgConnection::connect(&server.url())
        .await
        .expect("it takes connections once it is started")
}

#[tokio::test]
async fn data_survives_a_stop_and_a_kill() {
    let dir = directory();
    let server = Postgres::start(dir.path(), Durability::Full).unwrap();
    let mut connection = connect(&server).await;
    connection
        .execute("create table t (a int); insert into t values (1)")
        .await
        .unwrap();
    let url = server.url();
    server.stop();
    let server = Postgres::start(dir.path(), Durability::Full).unwrap();
    assert_eq!(server.url(), url, "it keeps its port");
    let mut connection = connect(&server).await;
    connection
        .execute("insert into t values (2)")
        .await
        .unwrap();
    server.kill();
    let server = Postgres::start(dir.path(), Durability::Full).unwrap();
    let sum: i64 = sqlx::query_scalar("select sum(a) from t")
        .fetch_one(&mut connect(&server).await)
        .await
        .unwrap();
    assert_eq!(sum, 3);
}

#[tokio::test]
async fn nobody_gets_in_without_the_password() {
    let dir = directory();
    let server = Postgres::start(dir.path(), Durability::None).unwrap();
    let mut address: Vec<_> = server.url().split(['@', ':']).map(str::to_owned).collect();
    "wrong".clone_into(&mut address[2]);
    let [scheme, user, password, host, port] = &address[..] else {
        panic!("{address:?}");
    };
    let refused = PgConnection::connect(&format!("{scheme}:{user}:{password}@{host}:{port}")).await;
    let refused = refused.unwrap_err().to_string();
    assert!(
        refused.contains("password authentication failed"),
        "{refused}"
    );
}
