//! ClickHouse is killed again and again while events arrive: each is counted once.

#![allow(clippy::unwrap_used, reason = "helpers of a test")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use sluice_eventlog::embedded::EmbeddedLog;
use sluice_schema::id::FrameId;
use support::*;

/// How often it is killed: `SLUICE_TEST_KILLS`, 4 if that is not set.
fn kills() -> u64 {
    std::env::var("SLUICE_TEST_KILLS").map_or(4, |kills| kills.parse().unwrap())
}

/// Appends frames until told to stop; returns how many launches were acknowledged.
fn load(log: &EmbeddedLog, stop: &AtomicBool, acknowledged: &AtomicU64) {
    for n in 0_u64.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let bodies: Vec<_> = (0..40)
            .map(|i| launch(&format!("{}", n * 40 + i)))
            .collect();
        append(log, frame(FrameId::new(), &bodies));
        acknowledged.fetch_add(40, Ordering::Relaxed);
        // The load's pace, not a wait for something.
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_or_counted_twice_over_kills() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("clickhouse");
    let mut engine = server(&store);
    let client = migrated(&engine).await;
    let logs = open_logs(&dir);
    let (stop, acknowledged) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    let loader = {
        let (log, stop, acknowledged) = (logs.health.clone(), stop.clone(), acknowledged.clone());
        std::thread::spawn(move || load(&log, &stop, &acknowledged))
    };
    let mut running = start(&logs, &client, &[]);
    for round in 0..kills() {
        let mut progress = running.progress.clone();
        let seen = progress.borrow().inserts;
        progress.wait_for(|p| p.inserts > seen).await.unwrap();
        // A moment of its own in the cycle of about a second.
        tokio::time::sleep(Duration::from_millis(950 + (round * 137) % 120)).await;
        engine.kill();
        if round % 2 == 1 {
            // Another aggregator takes over while there is no store.
            running.stop().await;
            running = start(&logs, &client, &[]);
        }
        engine = server(&store);
    }
    stop.store(true, Ordering::Relaxed);
    loader.join().unwrap();
    running.caught_up().await;
    running.stop().await;
    let acknowledged = acknowledged.load(Ordering::Relaxed);
    let raw = number(&client, "SELECT count() FROM health_events").await;
    let distinct =
        "SELECT uniqExact(src_topic, src_partition, src_offset, src_index) FROM health_events";
    assert_eq!(number(&client, distinct).await, acknowledged, "lost");
    assert_eq!(raw, acknowledged, "counted twice");
    let launches = number(&client, "SELECT sum(launches) FROM device_hours").await;
    assert_eq!(launches, acknowledged, "views have what raw has");
    println!("{acknowledged} events over {} kills", kills());
}
