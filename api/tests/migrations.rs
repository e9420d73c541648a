//! The Postgres schema: numbered, and safe to run again and by several at once.

use sluice_schema::postgres::MIGRATOR;
use sqlx::PgPool;

#[tokio::test]
async fn several_may_migrate_at_once_and_again() {
    let url = sluice_engines::testing::postgres();
    let pools: Vec<PgPool> = (0..4)
        .map(|_| PgPool::connect_lazy(&url).unwrap())
        .collect();
    for _ in 0..2 {
        let runs: Vec<_> = pools
            .iter()
            .map(|pool| {
                let pool = pool.clone();
                tokio::spawn(async move { MIGRATOR.run(&pool).await })
            })
            .collect();
        for run in runs {
            run.await.unwrap().unwrap();
        }
    }
    let applied: Vec<i64> = sqlx::query_scalar("select version from _sqlx_migrations order by 1")
        .fetch_all(&pools[0])
        .await
        .unwrap();
    let numbers: Vec<i64> = MIGRATOR.iter().map(|migration| migration.version).collect();
    assert_eq!(applied, numbers);
    assert!(numbers.len() > 3);
}
