//! Each request and each of its events ends in exactly one counted outcome.
//!
//! A program of its own, because the registry is the whole process's.

#![allow(
    clippy::unwrap_used,
    dead_code,
    unreachable_pub,
    reason = "helpers of tests, each used by some"
)]

#[path = "edge/support.rs"]
mod support;

use serde_json::json;
use support::*;
use tokio::io::AsyncWriteExt as _;

/// The sum of a counter over all of its label sets that contain `labels`.
fn sum(text: &str, name: &str, labels: &str) -> u64 {
    text.lines()
        .filter(|line| line.starts_with(&format!("{name}{{")) && line.contains(labels))
        .map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap())
        .sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_request_and_every_event_is_counted_once() {
    let registry = sluice_service::metrics::install().unwrap();
    let world = World::start(Setting::default()).await;
    let text = registry.render();
    for outcome in ["accepted", "log_full", "abandoned"] {
        let label = format!("outcome=\"{outcome}\"");
        assert!(text.contains(&label), "{outcome} is not declared");
    }
    assert_eq!(sum(&text, "sluice_ingest_requests_total", ""), 0);

    let batch = json!([{"type": "crash"}, {"type": "crash", "count": 0}, {"type": "later"}]);
    world.post(body(&batch).to_string()).await;
    world.post("{").await;
    let foreign = body(&batch).to_string().replace("my-app", "nobody");
    world.post(foreign).await;
    world.send(Request::new("GET", HEALTH)).await;
    world.evaluate(&[]).await;
    // One that breaks off.
    let mut stream = tokio::net::TcpStream::connect(world.address).await.unwrap();
    let whole = Request::post(HEALTH, launch().as_bytes()).bytes();
    stream.write_all(&whole[..whole.len() - 5]).await.unwrap();
    stream.shutdown().await.unwrap();
    read_to_end(&mut stream).await;

    let text = registry.render();
    let requests = |labels: &str| sum(&text, "sluice_ingest_requests_total", labels);
    assert_eq!(requests(""), 6);
    for outcome in [
        "accepted",
        "invalid_body",
        "project_not_found",
        "method_not_allowed",
        "unauthorized",
    ] {
        let label = format!("outcome=\"{outcome}\"");
        assert_eq!(requests(&label), 1, "{outcome}");
    }
    let events = |labels: &str| sum(&text, "sluice_ingest_events_total", labels);
    assert_eq!(events("outcome=\"accepted\""), 1);
    // All of the batch whose project nobody knows.
    assert_eq!(events("outcome=\"refused\""), 3);
    let dropped = |labels: &str| sum(&text, "sluice_ingest_events_dropped_total", labels);
    assert_eq!(dropped("reason=\"unknown_type\""), 1);
    assert_eq!(dropped("reason=\"non_positive_count\""), 1);
    assert_eq!(dropped(""), 2);
}
