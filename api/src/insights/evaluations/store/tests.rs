use clickhouse::Client;
use serde_json::json;

use super::*;
use crate::insights::evaluations::bulk::tests::migrated;

const MINE: ProjectId = ProjectId(1);

fn instant(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

/// (project, instant, flag, value, channel, source, count)
type Raw<'r> = (i64, &'r str, &'r str, &'r str, &'r str, &'r str, u64);

async fn insert(client: &Client, rows: &[Raw<'_>]) {
    let lines: Vec<String> = rows
        .iter()
        .map(|(project, at, flag, value, channel, source, count)| {
            let row = json!({
                "received_at": format!("{}.000000", instant(at).timestamp()), "project_id": project,
                "flag_key": flag, "value": value, "channel": channel, "source": source, "count": count,
            });
            row.to_string()
        })
        .collect();
    let mut insert =
        client.insert_formatted_with("INSERT INTO flag_evaluations FORMAT JSONEachRow");
    insert.send(lines.join("\n").into()).await.unwrap();
    insert.end().await.unwrap();
}

async fn postgres() -> PgPool {
    let pool = PgPool::connect(&sluice_engines::testing::postgres())
        .await
        .unwrap();
    sluice_schema::postgres::MIGRATOR.run(&pool).await.unwrap();
    let setup = "insert into projects (name, slug) values ('Mine', 'mine'), ('Other', 'other');
         insert into flags (project_id, key, name, flag_type, default_value, created_at)
         select p.id, f.key, f.key, 'boolean', 'false', f.at::timestamptz
         from projects p, (values ('old', '2000-01-01T00:00:00Z'), ('new', '2026-02-28T10:30:00Z')) f (key, at)
         where p.slug = 'mine'";
    sqlx::raw_sql(setup).execute(&pool).await.unwrap();
    pool
}

/// The raw table drops what is older than its retention, the counts do not.
async fn keep_old_rows(client: &Client) {
    let keep = "ALTER TABLE flag_evaluations REMOVE TTL";
    client.query(keep).execute().await.unwrap();
    let keep = "ALTER TABLE evaluation_hours REMOVE TTL";
    client.query(keep).execute().await.unwrap();
}

#[tokio::test]
async fn buckets_hold_what_is_counted_of_the_flags_there_are() {
    let (client, pool) = (migrated().await, postgres().await);
    let reader = Reader::new(client.clone());
    keep_old_rows(&client).await;
    let rows = [
        (1, "2026-02-28T09:59:59Z", "new", "true", "", "sdk", 1),
        (1, "2026-02-28T10:00:00Z", "new", "true", "", "sdk", 2),
        (1, "2026-02-28T10:59:59Z", "old", "false", "beta", "bulk", 4),
        (1, "2026-02-28T23:59:59Z", "old", "false", "", "sdk", 8),
        (1, "2026-03-01T00:00:00Z", "old", "true", "beta", "sdk", 16),
        (
            1,
            "2026-03-01T00:00:00Z",
            "old",
            "true",
            "beta",
            "stream",
            32,
        ),
        (
            1,
            "2026-03-01T00:00:00Z",
            "unknown",
            "true",
            "beta",
            "sdk",
            64,
        ),
        (1, "2026-03-02T00:00:00Z", "old", "true", "", "sdk", 128),
        (1, "2026-02-27T23:59:59Z", "old", "true", "", "sdk", 256),
        (2, "2026-03-01T00:00:00Z", "old", "true", "beta", "sdk", 512),
    ];
    insert(&client, &rows).await;
    let window = Window {
        from: instant("2026-02-28T00:00:00Z"),
        to: instant("2026-03-02T00:00:00Z"),
    };
    let buckets = async |bucket, channel: Option<&str>, flag| {
        let channels = Channels::exactly(channel.map(str::to_owned));
        let flags = flags(&pool, MINE, flag).await.unwrap();
        let found = flag_evals(&reader, MINE, &flags, window, bucket, &channels).await;
        let mut found: Vec<_> = found.unwrap().into_iter().collect();
        found.sort_unstable();
        found
    };
    let start = |text: &str| instant(text).timestamp();
    let days = [start("2026-02-28T00:00:00Z"), start("2026-03-01T00:00:00Z")];
    let all = buckets(DAYS, None, None).await;
    assert_eq!(all, [(days[0], 14), (days[1], 16)]);
    let beta = buckets(DAYS, Some("beta"), None).await;
    assert_eq!(beta, [(days[0], 4), (days[1], 16)]);
    let new = buckets(DAYS, None, Some("new")).await;
    assert_eq!(new, [(days[0], 2)], "from the hour on in which it was made");
    assert_eq!(buckets(DAYS, None, Some("unknown")).await, []);
    let hours = [
        (start("2026-02-28T10:00:00Z"), 6),
        (start("2026-02-28T23:00:00Z"), 8),
        (start("2026-03-01T00:00:00Z"), 16),
    ];
    assert_eq!(buckets(HOURS, None, None).await, hours);
    let none = flag_evals(&reader, MINE, &[], window, DAYS, &Channels::default()).await;
    assert_eq!(none.unwrap(), HashMap::new(), "it has no flags");
}

#[tokio::test]
async fn a_flag_has_its_own_counts_and_its_latest_report() {
    let client = migrated().await;
    let reader = Reader::new(client.clone());
    keep_old_rows(&client).await;
    let rows = [
        (1, "2026-02-20T08:00:01Z", "a", "true", "beta", "sdk", 1),
        (1, "2026-02-28T08:00:02Z", "a", "true", "", "sdk", 2),
        (1, "2026-03-01T08:00:03Z", "a", "\"x\"", "", "bulk", 4),
        (1, "2026-03-01T08:30:04Z", "a", "true", "", "sdk", 8),
        (1, "2026-03-01T09:30:05Z", "b", "true", "beta", "sdk", 16),
        (2, "2026-03-01T09:30:06Z", "a", "true", "beta", "sdk", 32),
    ];
    insert(&client, &rows).await;
    let flag = CountedFlag {
        key: "a".to_owned(),
        created_at: DateTime::UNIX_EPOCH,
    };
    let date = |text: &str| text.parse::<NaiveDate>().unwrap();
    let dates = [date("2026-02-28"), date("2026-03-01")];
    let counts = counts_of_flag(&reader, MINE, &flag, &dates, &Channels::default())
        .await
        .unwrap();
    assert_eq!(
        counts.by_date,
        HashMap::from([(dates[0], 2), (dates[1], 12)])
    );
    let values = [("true".to_owned(), 10), ("\"x\"".to_owned(), 4)];
    assert_eq!(counts.by_value, values);
    assert_eq!(counts.last_at, Some(instant("2026-03-01T08:30:04Z")));

    let beta = Channels::exactly(Some("beta".to_owned()));
    let beta = counts_of_flag(&reader, MINE, &flag, &dates, &beta)
        .await
        .unwrap();
    assert_eq!((beta.by_date, beta.by_value), (HashMap::new(), Vec::new()));
    assert_eq!(
        beta.last_at,
        Some(instant("2026-02-20T08:00:01Z")),
        "before the window"
    );

    let flags = [flag];
    let window = Window::days(instant("2026-03-01T12:00:00Z"), 11);
    let as_it_is = DefaultChannel::default();
    let totals = totals(&reader, MINE, &flags, window, &as_it_is).await;
    let totals = totals.unwrap();
    let expected = Totals {
        total: 15,
        by_channel: BTreeMap::from([("beta".to_owned(), 1)]),
    };
    assert_eq!(totals, HashMap::from([("a".to_owned(), expected)]));
}
