//! Requests of the manifest endpoint from their log to downloads and evidence
//! of running updates, over crashes, kills and replays.

#![allow(clippy::unwrap_used, reason = "helpers of a test")]

mod support;

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use clickhouse::Client;
use sluice_aggregator::batch::BatchLimits;
use sluice_aggregator::{Aggregator, Parts};
use sluice_eventlog::embedded::{EmbeddedConfig, EmbeddedLog};
use sluice_schema::frame::{ContentKind, FrameBuilder, ProjectRef, Request, mark_replay};
use sluice_schema::id::FrameId;
use sluice_schema::wire::manifests::ManifestRequest;
use support::*;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Every frame its own batch, so that a new cut would differ.
const SMALL: BatchLimits = BatchLimits {
    max_rows: 1,
    max_bytes: 1,
    interval: std::time::Duration::ZERO,
};
/// And one that cuts elsewhere.
const PAIRS: BatchLimits = BatchLimits {
    max_rows: 8,
    max_bytes: 1 << 20,
    interval: std::time::Duration::ZERO,
};
const OLD: Uuid = Uuid::from_u128(1);
const NEW: Uuid = Uuid::from_u128(2);

/// A device that runs the old update is served the new one.
fn served(device_id: &str) -> Vec<u8> {
    let request = ManifestRequest {
        served: Some(NEW),
        current: Some(OLD),
        device_id,
        client_id: "client",
        platform: "ios",
        runtime_version: "1",
        channel: "production",
        fatal_error: "Error: boom",
        failed: vec![OLD, NEW],
    };
    request.encode()
}

fn frame_of_requests(project: &ProjectRef<'_>, kind: ContentKind, records: &[Vec<u8>]) -> Bytes {
    let mut builder = FrameBuilder::new();
    for record in records {
        let request = Request {
            project: project.clone(),
            received_at_us: now_us(),
            kind,
            payload: record,
        };
        builder.push(&request, 1);
    }
    builder.finish(FrameId::new())
}

fn frame_of_devices(devices: &[&str]) -> Bytes {
    let records: Vec<_> = devices.iter().map(|device| served(device)).collect();
    frame_of_requests(&ProjectRef::Id(PROJECT), ContentKind::Manifests, &records)
}

struct Open {
    manifests: Arc<EmbeddedLog>,
    dead: Arc<EmbeddedLog>,
}

fn open(dir: &TempDir) -> Open {
    let open =
        |name: &str| EmbeddedLog::open(&dir.path().join(name), EmbeddedConfig::default()).unwrap();
    Open {
        manifests: Arc::new(open("manifests")),
        dead: Arc::new(open("dead")),
    }
}

fn run(logs: &Open, client: &Client, limits: BatchLimits) -> Running {
    let projects = HashMap::from([("my-app".to_owned(), PROJECT)]);
    let aggregator = Aggregator::manifests(Parts {
        log: logs.manifests.clone(),
        dead_letters: logs.dead.clone(),
        clickhouse: client.clone(),
        projects: Arc::new(projects),
        limits,
    });
    Running::of(aggregator, CancellationToken::new())
}

/// Requests that are raw, in hours, as evidence of being served, and of running.
async fn counts(client: &Client) -> [u64; 4] {
    let evidence = |served| format!("SELECT sum(n) FROM device_updates WHERE served = {served}");
    [
        number(client, "SELECT count() FROM manifest_requests").await,
        number(client, "SELECT sum(n) FROM download_hours").await,
        number(client, &evidence(1)).await,
        number(client, &evidence(0)).await,
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_become_downloads_and_evidence() {
    let (dir, log_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let server = server(dir.path());
    let client = migrated(&server).await;
    let logs = open(&log_dir);
    let frame = frame_of_devices(&["a", "a", "b"]);
    append(&logs.manifests, frame.clone());
    append(&logs.manifests, mark_replay(&frame).unwrap());
    let (slug, nobody) = (ProjectRef::Slug("my-app"), ProjectRef::Slug("nobody"));
    let own = ContentKind::Manifests;
    append(
        &logs.manifests,
        frame_of_requests(&slug, own, &[served("")]),
    );
    // What cannot become rows stops nothing.
    for (project, kind, record) in [
        (&nobody, own, served("c")),
        (&slug, ContentKind::Health, launch("c")),
        (&slug, own, b"no record".to_vec()),
    ] {
        append(&logs.manifests, frame_of_requests(project, kind, &[record]));
    }
    append(&logs.manifests, Bytes::from_static(b"no frame"));
    let mut running = run(&logs, &client, BatchLimits::default());
    running.caught_up().await;
    running.stop().await;
    assert_eq!(counts(&client).await, [4, 4, 4, 4]);

    let raw = "SELECT [device_id, client_id, toString(platform), toString(runtime_version), \
         toString(channel), toString(served_update), toString(current_update), fatal_error, \
         failed_updates] FROM manifest_requests WHERE device_id = 'b'";
    let row: Vec<String> = client.query(raw).fetch_one().await.unwrap();
    let (old, new) = (OLD.to_string(), NEW.to_string());
    let failed = format!("{OLD},{NEW}");
    let device = ["b", "client", "ios", "1", "production"];
    let expected = [&device[..], &[&new, &old, "Error: boom", &failed]].concat();
    assert_eq!(row, expected);
    // Three devices, one of them without an id, and all with the one client.
    let keys = "SELECT uniqExact(device, client) FROM download_hours";
    assert_eq!(number(&client, keys).await, 3);
    assert_eq!(
        number(&client, "SELECT uniqExact(client) FROM client_devices").await,
        1
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_was_stored_but_not_committed_counts_once() {
    let (dir, log_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let server = server(dir.path());
    let client = migrated(&server).await;
    let logs = open(&log_dir);
    for device in ["a", "b", "c"] {
        append(&logs.manifests, frame_of_devices(&[device]));
    }
    let mut running = run(&logs, &client, BatchLimits::default());
    running.caught_up().await;
    running.stop().await;
    // The crash: the position of the batch was never written.
    let position = "manifests/positions/aggregator-manifests.position";
    let position = log_dir.path().join(position);
    assert!(position.exists());
    std::fs::write(position, "0\n").unwrap();
    drop(logs);
    let logs = open(&log_dir);
    append(&logs.manifests, frame_of_devices(&["d"]));
    let mut running = run(&logs, &client, SMALL);
    running.caught_up().await;
    running.stop().await;
    assert_eq!(counts(&client).await, [4, 4, 4, 4]);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_or_counted_twice_over_kills() {
    let (dir, log_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut engine = server(dir.path());
    let client = migrated(&engine).await;
    let logs = open(&log_dir);
    let mut running = run(&logs, &client, SMALL);
    let mut requests = 0;
    for round in 0..4_u32 {
        let seen = running.progress.borrow().inserts;
        for _ in 0..40 {
            append(&logs.manifests, frame_of_devices(&["a", "b"]));
            requests += 2;
        }
        let mut progress = running.progress.clone();
        let some = u64::from(5 + 3 * round);
        progress
            .wait_for(|p| p.inserts >= seen + some)
            .await
            .unwrap();
        engine.kill();
        if round % 2 == 1 {
            // Another aggregator takes over while there is no store.
            running.stop().await;
            running = run(&logs, &client, PAIRS);
        }
        engine = server(dir.path());
    }
    running.caught_up().await;
    running.stop().await;
    assert_eq!(counts(&client).await, [requests; 4]);
}
