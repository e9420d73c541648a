//! The Postgres schema: numbered, and safe to run again and by several at once.

use sluice_schema::postgres::MIGRATOR;
use sqlx::PgPool;
use sqlx::migrate::Migrator;

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

/// What is stored when a version is replaced goes on in the next.
#[tokio::test]
async fn a_former_secret_signs_on_after_an_upgrade() {
    let pool = PgPool::connect(&sluice_engines::testing::postgres())
        .await
        .unwrap();
    let before = MIGRATOR.iter().filter(|migration| migration.version < 13);
    let before = Migrator {
        migrations: before.cloned().collect(),
        ..Migrator::DEFAULT
    };
    before.run(&pool).await.unwrap();
    let stored = "insert into projects (name, slug) values ('P', 'p');
        insert into webhooks (project_id, url, events, secret, previous_secret, previous_secret_until)
        select id, 'http://example.test/', '{}', s, p, u from projects,
            (values ('new', 'old', timestamptz '2026-01-02T00:00:00Z'), ('only', null, null)) v (s, p, u)";
    sqlx::raw_sql(stored).execute(&pool).await.unwrap();
    MIGRATOR.run(&pool).await.unwrap();
    let query = "select w.secret, f.secret, f.signs_until = '2026-01-02T00:00:00Z'
                 from webhook_former_secrets f join webhooks w on w.id = f.webhook_id";
    let former: Vec<(String, String, bool)> = sqlx::query_as(query).fetch_all(&pool).await.unwrap();
    assert_eq!(former, [("new".to_owned(), "old".to_owned(), true)]);
}
