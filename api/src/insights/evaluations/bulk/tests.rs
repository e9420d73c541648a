use std::collections::HashMap;

use sluice_schema::clickhouse::MIGRATIONS;

use super::*;
use crate::flags::eval::Variation;

pub(crate) async fn migrated() -> Client {
    let database = sluice_engines::testing::clickhouse();
    let client = Client::default()
        .with_url(&database.url)
        .with_user(&database.user)
        .with_password(&database.password)
        .with_database(&database.database);
    for migration in MIGRATIONS {
        for statement in migration.statements() {
            client.query_raw(statement).execute().await.unwrap();
        }
    }
    client
}

const PROJECT: ProjectId = ProjectId(7);

fn at() -> DateTime<Utc> {
    Utc::now()
}

fn on() -> Outcome {
    let variation = Variation {
        id: 1,
        value: json!(true),
        name: Some("On".to_owned()),
    };
    Outcome::for_tests(json!(true), Some(&variation))
}

async fn counted(client: &Client) -> HashMap<(String, String), u64> {
    let rows: Vec<(String, String, u64)> = client
        .query(
            "SELECT toString(flag_key), toString(channel), sum(n) FROM evaluation_hours \
             WHERE source = 'bulk' AND value = 'true' GROUP BY flag_key, channel",
        )
        .fetch_all()
        .await
        .unwrap();
    rows.into_iter()
        .map(|(flag, channel, n)| ((flag, channel), n))
        .collect()
}

fn key(flag: &str, channel: &str) -> (String, String) {
    (flag.to_owned(), channel.to_owned())
}

#[tokio::test]
async fn a_block_that_is_sent_again_counts_once() {
    let client = migrated().await;
    let counts = BulkCounts::default();
    let outcome = on();
    for channel in [None, Some("beta"), Some("beta")] {
        counts.add(
            PROJECT,
            channel,
            at(),
            [(1, "a", &outcome), (2, "b", &outcome)],
        );
    }
    counts.store(&client).await.unwrap();
    let expected = [
        (key("a", ""), 1),
        (key("b", ""), 1),
        (key("a", "beta"), 2),
        (key("b", "beta"), 2),
    ];
    assert_eq!(counted(&client).await, HashMap::from(expected.clone()));

    // The acknowledgement was lost, so the block is sent again.
    counts.add(PROJECT, None, at(), [(1, "a", &outcome)]);
    counts.store(&client).await.unwrap();
    let again = {
        let mut waiting = Waiting::default();
        waiting.add(PROJECT, "", at().timestamp_micros(), [(1, "a", &outcome)]);
        let mut series = counts.series.lock().await;
        let rows = waiting.encode(&series.source, 1);
        series.repeat(1, rows);
        series.send(&client).await
    };
    again.unwrap();
    let mut expected = HashMap::from(expected);
    expected.insert(key("a", ""), 2);
    assert_eq!(counted(&client).await, expected);
}

#[tokio::test]
async fn what_is_counted_while_the_store_is_away_is_stored_later() {
    let client = migrated().await;
    let away = Client::default().with_url("http://127.0.0.1:1");
    let counts = BulkCounts::default();
    let outcome = on();
    for _ in 0..3 {
        counts.add(PROJECT, None, at(), [(1, "a", &outcome)]);
        assert!(counts.store(&away).await.is_err());
    }
    counts.store(&client).await.unwrap();
    assert_eq!(counted(&client).await, HashMap::from([(key("a", ""), 3)]));
    // Nothing is left to store.
    counts.store(&away).await.unwrap();
}

#[test]
fn too_many_channels_are_no_longer_told_apart() {
    let outcome = on();
    let mut waiting = Waiting::default();
    for channel in 0..MAX_SLOTS + 100 {
        waiting.add(PROJECT, &channel.to_string(), 0, [(1, "a", &outcome)]);
    }
    // A known channel stays what it is.
    waiting.add(PROJECT, "0", 0, [(1, "a", &outcome)]);
    let of = |channel: &str| {
        let found = waiting
            .slots
            .iter()
            .find(|(answered, _)| &*answered.channel == channel);
        found.map(|(_, flags)| flags.values().map(|slot| slot.count).sum::<u64>())
    };
    assert_eq!(waiting.size, MAX_SLOTS + 1);
    assert_eq!((of(""), of("0")), (Some(100), Some(2)));
}

#[test]
fn channels_are_cut_between_characters() {
    let long = "é".repeat(200);
    assert_eq!(cut(&long, MAX_CHANNEL_BYTES).len(), MAX_CHANNEL_BYTES);
    assert_eq!(cut("a\0b", 9), "ab");
}
