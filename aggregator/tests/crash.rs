//! Crashes at each step between the log and the store, and what is counted after.

#![allow(clippy::unwrap_used, reason = "helpers of a test")]

mod support;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sluice_aggregator::batch::{BatchId, BatchLimits};
use sluice_aggregator::migrate;
use sluice_eventlog::EventLog as _;
use sluice_eventlog::embedded::{EmbeddedConfig, EmbeddedLog};
use sluice_schema::frame::{ProjectRef, mark_replay};
use sluice_schema::id::FrameId;
use support::*;

const RAW: &str = "SELECT count() FROM health_events";
const LAUNCHES: &str = "SELECT sum(launches) FROM device_hours";

/// Every frame its own batch, so that a new cut would differ.
const SMALL: BatchLimits = BatchLimits {
    max_rows: 1,
    max_bytes: 1,
    interval: Duration::ZERO,
};

fn position(dir: &tempfile::TempDir) -> PathBuf {
    dir.path().join("health/positions/aggregator.position")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_was_stored_but_not_committed_counts_once() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(&dir.path().join("clickhouse"));
    let client = migrated(&server).await;
    let logs = open_logs(&dir);
    for device in ["a", "b", "c"] {
        append(&logs.health, frame(FrameId::new(), &[launch(device)]));
    }
    let mut running = start(&logs, &client, &[]);
    running.caught_up().await;
    running.stop().await;
    // The crash: the position of the batch was never written.
    std::fs::write(position(&dir), "0\n").unwrap();
    drop(logs);
    let logs = open_logs(&dir);
    append(&logs.health, frame(FrameId::new(), &[launch("d")]));
    let mut running = start_with(&logs, &client, &[], SMALL);
    running.caught_up().await;
    running.stop().await;
    assert_eq!(number(&client, RAW).await, 4);
    assert_eq!(number(&client, LAUNCHES).await, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_reached_raw_but_not_its_views_is_completed() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(&dir.path().join("clickhouse"));
    let client = migrated(&server).await;
    let throwing = "CREATE MATERIALIZED VIEW aaa_throws ENGINE = Memory AS \
         SELECT throwIf(project_id = 7) AS x FROM health_events";
    let views = [
        "DROP VIEW device_hours_mv",
        "DROP VIEW custom_hours_mv",
        throwing,
    ];
    for statement in views {
        client.query(statement).execute().await.unwrap();
    }
    let logs = open_logs(&dir);
    for device in ["a", "b", "c"] {
        append(&logs.health, frame(FrameId::new(), &[launch(device)]));
    }
    let running = start(&logs, &client, &[]);
    eventually("raw has the batch", async || {
        number(&client, RAW).await == 3
    })
    .await;
    running.stop().await;
    assert_eq!(number(&client, LAUNCHES).await, 0, "views have nothing");

    client
        .query("DROP VIEW aaa_throws")
        .execute()
        .await
        .unwrap();
    client
        .query("TRUNCATE TABLE schema_migrations")
        .execute()
        .await
        .unwrap();
    migrate::run_in(&client).await.unwrap();
    append(&logs.health, frame(FrameId::new(), &[launch("d")]));
    let mut running = start_with(&logs, &client, &[], SMALL);
    running.caught_up().await;
    running.stop().await;
    assert_eq!(number(&client, RAW).await, 4);
    assert_eq!(
        number(&client, LAUNCHES).await,
        4,
        "what was missing is there"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_insert_of_a_dead_owner_cannot_arrive_late() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(&dir.path().join("clickhouse"));
    let client = migrated(&server).await;
    let logs = open_logs(&dir);
    append(&logs.health, frame(FrameId::new(), &[launch("a")]));
    append(&logs.health, frame(FrameId::new(), &[launch("b")]));
    // The dead owner's insert of both is under way: it reads its rows slowly.
    let incarnation = logs.health.reader("x").unwrap().incarnation();
    let id = BatchId {
        source: format!("health@{incarnation}").into(),
        partition: 0,
        first: 0,
        last: 1,
    };
    let slow = format!(
        "INSERT INTO health_events (received_at, project_id, type, count, src_topic, src_offset, batch_last) \
         SELECT now64(6), 7, 'app_launch', 1, '{}', number, 1 FROM numbers(2) WHERE sleepEachRow(60) = 0",
        id.source
    );
    // Slow enough for any machine: it is ended, and does not end by itself.
    let zombie = client
        .query(&slow)
        .with_setting("function_sleep_max_microseconds_per_block", "0")
        .with_setting("query_id", id.to_string())
        .with_setting("insert_deduplication_token", id.to_string());
    let zombie = tokio::spawn(zombie.execute());
    let runs = "SELECT count() FROM system.processes WHERE startsWith(query_id, 'health@')";
    eventually("the insert runs", async || number(&client, runs).await == 1).await;

    let mut running = start_with(&logs, &client, &[], SMALL);
    running.caught_up().await;
    running.stop().await;
    assert!(zombie.await.unwrap().is_err(), "it was ended");
    assert_eq!(number(&client, RAW).await, 2);
    assert_eq!(number(&client, LAUNCHES).await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuilt_batch_decides_on_replays_as_before() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(&dir.path().join("clickhouse"));
    let client = migrated(&server).await;
    let logs = open_logs(&dir);
    let [first, second] = [FrameId::new(), FrameId::new()];
    let one = frame(first, &[launch("a")]);
    append(&logs.health, one.clone());
    append(&logs.health, mark_replay(&one).unwrap());
    // This replay's original never reached the log, so the replay counts.
    let two = mark_replay(&frame(second, &[launch("b")])).unwrap();
    append(&logs.health, two.clone());
    append(&logs.health, two);
    let mut running = start(&logs, &client, &[]);
    running.caught_up().await;
    running.stop().await;
    assert_eq!(number(&client, RAW).await, 2);
    std::fs::write(position(&dir), "0\n").unwrap();
    client
        .query("TRUNCATE TABLE device_hours")
        .execute()
        .await
        .unwrap();
    drop(logs);
    let logs = open_logs(&dir);
    let mut running = start(&logs, &client, &[]);
    running.caught_up().await;
    running.stop().await;
    assert_eq!(number(&client, RAW).await, 2, "raw remembers the token");
    assert_eq!(
        number(&client, LAUNCHES).await,
        2,
        "the view got the same rows again"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn another_log_with_the_same_offsets_is_not_taken_for_the_first() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(&dir.path().join("clickhouse"));
    let client = migrated(&server).await;
    for device in ["a", "b"] {
        let fresh = tempfile::tempdir().unwrap();
        let logs = open_logs(&fresh);
        append(&logs.health, frame(FrameId::new(), &[launch(device)]));
        let mut running = start(&logs, &client, &[]);
        running.caught_up().await;
        running.stop().await;
    }
    assert_eq!(number(&client, RAW).await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_an_hour_that_is_over_are_put_into_the_ledger() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(&dir.path().join("clickhouse"));
    let client = migrated(&server).await;
    let logs = open_logs(&dir);
    let late_us = now_us() - 7_200_000_000;
    // Of an hour that does not end while this runs, which that of now may.
    let open_us = now_us() + 3_600_000_000;
    let project = ProjectRef::Id(PROJECT);
    for (at_us, device) in [(late_us, "a"), (open_us, "b")] {
        let frame = frame_of(FrameId::new(), &project, at_us, &[launch(device)]);
        append(&logs.health, frame);
    }
    let mut running = start(&logs, &client, &[]);
    running.caught_up().await;
    running.stop().await;
    let hours = "SELECT groupArray(toUInt64(slot)) FROM folds WHERE kind = 'late'";
    let hours: Vec<u64> = client.query(hours).fetch_one().await.unwrap();
    let late_hour = late_us as u64 / 3_600_000_000 * 3_600;
    assert_eq!(hours, [late_hour]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_of_quiet_days_is_one_batch() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(&dir.path().join("clickhouse"));
    let client = migrated(&server).await;
    let logs = open_logs(&dir);
    let (project, now_us) = (ProjectRef::Id(PROJECT), now_us());
    for hours_ago in (0..150).rev() {
        let at_us = now_us - hours_ago * 3_600_000_000;
        let bytes = frame_of(FrameId::new(), &project, at_us, &[launch("a")]);
        append(&logs.health, bytes);
    }
    let mut running = start(&logs, &client, &[]);
    running.caught_up().await;
    running.stop().await;
    assert_eq!(number(&client, LAUNCHES).await, 150);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_log_of_dead_letters_stops_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(&dir.path().join("clickhouse"));
    let client = migrated(&server).await;
    let mut logs = open_logs(&dir);
    let full = EmbeddedConfig {
        max_bytes: 0,
        ..EmbeddedConfig::default()
    };
    logs.dead = Arc::new(EmbeddedLog::open(&dir.path().join("full"), full).unwrap());
    append(&logs.health, bytes::Bytes::from_static(b"no frame"));
    append(&logs.health, frame(FrameId::new(), &[launch("a")]));
    let mut running = start(&logs, &client, &[]);
    running.caught_up().await;
    running.stop().await;
    assert_eq!(number(&client, RAW).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_whose_records_are_gone_is_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(&dir.path().join("clickhouse"));
    let client = migrated(&server).await;
    let mut logs = open_logs(&dir);
    let one_record_a_segment = EmbeddedConfig {
        segment_bytes: 1,
        ..EmbeddedConfig::default()
    };
    let open = || EmbeddedLog::open(&dir.path().join("small"), one_record_a_segment).unwrap();
    logs.health = Arc::new(open());
    for device in ["a", "b", "c"] {
        append(&logs.health, frame(FrameId::new(), &[launch(device)]));
    }
    let mut running = start(&logs, &client, &[]);
    running.caught_up().await;
    running.stop().await;
    let position = dir.path().join("small/positions/aggregator.position");
    assert_eq!(std::fs::read_to_string(&position).unwrap(), "3\n");
    // The commit is lost, but not before the log was trimmed by it.
    std::fs::write(position, "0\n").unwrap();
    drop(logs.health);
    logs.health = Arc::new(open());
    append(&logs.health, frame(FrameId::new(), &[launch("d")]));
    let mut running = start(&logs, &client, &[]);
    running.caught_up().await;
    running.stop().await;
    assert_eq!(number(&client, RAW).await, 4);
    assert_eq!(number(&client, LAUNCHES).await, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn migrations_may_run_twice_and_by_several_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(dir.path());
    let all = (0..4).map(|_| migrated(&server));
    let clients = futures_util::future::join_all(all).await;
    let tables = "SELECT count() FROM system.tables WHERE database = 'sluice'";
    let before = number(&clients[0], tables).await;
    migrated(&server).await;
    assert_eq!(number(&clients[0], tables).await, before);
}
