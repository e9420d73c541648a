//! The recorded bodies through log and aggregator, counted in a real ClickHouse.

#![allow(clippy::unwrap_used, reason = "helpers of a test")]

mod support;

use std::collections::BTreeMap;

use sluice_eventlog::{EventLog, ReadEvent};
use sluice_schema::frame::{ProjectRef, mark_replay};
use sluice_schema::id::FrameId;
use support::*;

/// Sum of `count` by type, read from the file by other means than the decoder.
fn expected_totals(bodies: &[Vec<u8>]) -> BTreeMap<String, u64> {
    let mut totals = BTreeMap::new();
    for body in bodies {
        let body: serde_json::Value = serde_json::from_slice(body).unwrap();
        for event in body["events"].as_array().unwrap() {
            let kind = event["type"].as_str().unwrap().to_owned();
            *totals.entry(kind).or_default() += event["count"].as_u64().unwrap_or(1);
        }
    }
    totals
}

async fn totals(client: &clickhouse::Client) -> BTreeMap<String, u64> {
    let sql = "SELECT toString(type) AS t, sum(count) FROM health_events GROUP BY t";
    let rows: Vec<(String, u64)> = client.query(sql).fetch_all().await.unwrap();
    rows.into_iter().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn recorded_bodies_are_counted_once() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(&dir.path().join("clickhouse"));
    let client = migrated(&server).await;
    let logs = open_logs(&dir);
    let bodies = recorded_bodies();
    let expected = expected_totals(&bodies);
    let original = frame(FrameId::new(), &bodies);
    append(&logs.health, original.clone());
    let mut running = start(&logs, &client, &[]);
    running.caught_up().await;
    assert_eq!(totals(&client).await, expected);

    append(&logs.health, mark_replay(&original).unwrap());
    running.caught_up().await;
    assert_eq!(totals(&client).await, expected, "a replay changes nothing");

    append(&logs.health, frame(FrameId::new(), &bodies));
    running.caught_up().await;
    let twice = expected.iter().map(|(kind, n)| (kind.clone(), 2 * n));
    assert_eq!(
        totals(&client).await,
        twice.collect(),
        "another request counts"
    );

    let launches = number(&client, "SELECT sum(launches) FROM device_hours").await;
    assert_eq!(launches, 2 * expected["app_launch"], "views have the same");
    let missing = "SELECT count() FROM health_events WHERE flag_map != 0 \
         AND flag_map NOT IN (SELECT flag_map FROM flag_maps)";
    assert_eq!(
        number(&client, missing).await,
        0,
        "every map is in the dictionary"
    );
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slugs_are_resolved_once_and_for_all() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(&dir.path().join("clickhouse"));
    let client = migrated(&server).await;
    let logs = open_logs(&dir);
    for slug in ["known", "unknown"] {
        let project = ProjectRef::Slug(slug);
        let frame = frame_of(FrameId::new(), &project, now_us(), &[launch("d")]);
        append(&logs.health, frame);
    }
    append(&logs.health, bytes::Bytes::from_static(b"no frame"));
    let mut running = start(&logs, &client, &[("known", 42)]);
    running.caught_up().await;
    running.stop().await;
    let projects = "SELECT groupArray(project_id) FROM health_events";
    let stored: Vec<u64> = client.query(projects).fetch_one().await.unwrap();
    assert_eq!(stored, [42]);
    let reasons = ["unknown_project", "malformed_frame"];
    assert_eq!(letters(&logs), reasons);

    // Before the position was written, the process dies and the projects change.
    drop(logs);
    let position = dir.path().join("health/positions/aggregator.position");
    std::fs::write(position, "0\n").unwrap();
    client
        .query("TRUNCATE TABLE device_hours")
        .execute()
        .await
        .unwrap();
    let logs = open_logs(&dir);
    let mut running = start(&logs, &client, &[("known", 1), ("unknown", 2)]);
    running.caught_up().await;
    running.stop().await;
    let views = "SELECT groupArray(project_id) FROM device_hours";
    let rebuilt: Vec<u64> = client.query(views).fetch_one().await.unwrap();
    assert_eq!(rebuilt, [42], "as it was resolved at first");
    assert_eq!(letters(&logs), reasons, "letters are written again");
}

/// Reasons in the log of dead letters.
fn letters(logs: &Logs) -> Vec<String> {
    let mut reader = logs.dead.reader("test").unwrap();
    let mut reasons = Vec::new();
    let mut position = 0;
    loop {
        match reader.poll(1 << 20, std::time::Duration::ZERO).unwrap() {
            ReadEvent::Records { records, next, .. } => {
                position = next;
                for record in records {
                    let line = record.bytes.split(|b| *b == b'\n').next().unwrap();
                    let head: serde_json::Value = serde_json::from_slice(line).unwrap();
                    reasons.push(head["reason"].as_str().unwrap().to_owned());
                }
            }
            ReadEvent::Idle => {
                reader.commit(&[(0, position)]).unwrap();
                return reasons;
            }
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn custom_names_and_flag_maps_are_capped_by_the_hour() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(&dir.path().join("clickhouse"));
    let client = migrated(&server).await;
    let logs = open_logs(&dir);
    let (project, at_us) = (ProjectRef::Id(PROJECT), now_us());
    for names in [0..900, 800..1_300] {
        let events: Vec<_> = names
            .map(|n| serde_json::json!({"type": "custom", "name": format!("n{n}"), "flagStates": {"n": n}}))
            .collect();
        let body = serde_json::json!({
            "projectSlug": "my-app", "deviceId": "d", "platform": "ios", "runtimeVersion": "1",
            "events": events,
        });
        append(
            &logs.health,
            frame_of(
                FrameId::new(),
                &project,
                at_us,
                &[body.to_string().into_bytes()],
            ),
        );
        // A process of its own, which knows the hour from raw alone.
        let mut running = start(&logs, &client, &[]);
        running.caught_up().await;
        running.stop().await;
    }
    let names = "SELECT uniqExact(name) FROM health_events WHERE name != '__other__'";
    assert_eq!(number(&client, names).await, 1_000);
    let other = "SELECT sum(n) FROM custom_hours WHERE name = '__other__'";
    assert_eq!(number(&client, other).await, 300);
    assert_eq!(
        number(&client, "SELECT uniqExact(flag_map) FROM flag_maps").await,
        1_000
    );
    assert_eq!(
        number(&client, "SELECT sum(n) FROM custom_hours").await,
        1_400
    );
}
