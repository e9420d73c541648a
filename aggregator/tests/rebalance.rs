//! Partitions change hands while events arrive: each is counted once.

#![allow(clippy::unwrap_used, reason = "helpers of a test")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use sluice_aggregator::batch::BatchLimits;
use sluice_aggregator::{Aggregator, GROUP, Parts};
use sluice_eventlog::EventLog as _;
use sluice_eventlog::embedded::{EmbeddedConfig, EmbeddedLog};
use sluice_schema::id::{FrameId, ProjectId};
use support::group::Partitions;
use support::*;
use tokio_util::sync::CancellationToken;

const PARTITIONS: u32 = 3;
const MOVES: u32 = 12;

/// Batches so frequent that a move finds one on its way.
const BUSY: BatchLimits = BatchLimits {
    max_rows: 400,
    max_bytes: 1 << 20,
    interval: Duration::ZERO,
};

#[tokio::test(flavor = "multi_thread")]
async fn each_event_counts_once_over_moves_of_partitions() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(&dir.path().join("clickhouse"));
    let client = migrated(&server).await;
    let open = |name: String| {
        Arc::new(EmbeddedLog::open(&dir.path().join(name), EmbeddedConfig::default()).unwrap())
    };
    let logs: Vec<_> = (0..PARTITIONS)
        .map(|p| open(format!("health-{p}")))
        .collect();
    let dead = open("dead".to_owned());
    let partitions = Partitions::new(logs.clone());
    (0..PARTITIONS).for_each(|p| partitions.assign(p, 0));

    let stop = CancellationToken::new();
    let members: Vec<_> = (0..2)
        .map(|member| {
            let aggregator = Aggregator::new(Parts {
                log: partitions.member(member),
                dead_letters: dead.clone(),
                clickhouse: client.clone(),
                projects: Arc::new(std::collections::HashMap::<String, ProjectId>::new()),
                limits: BUSY,
            });
            tokio::spawn(aggregator.run(stop.clone()))
        })
        .collect();

    let (done, acknowledged) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|threads| {
        threads.spawn(|| {
            for n in 0_usize.. {
                if done.load(Ordering::Relaxed) {
                    return;
                }
                let bodies: Vec<_> = (0..20).map(|i| launch(&format!("{n}-{i}"))).collect();
                append(&logs[n % logs.len()], frame(FrameId::new(), &bodies));
                acknowledged.fetch_add(20, Ordering::Relaxed);
                // The load's pace, not a wait for something.
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        for n in 0..MOVES {
            // A moment of its own in the cycle of the inserts.
            std::thread::sleep(Duration::from_millis(u64::from(150 + (n * 37) % 60)));
            partitions.assign(n % PARTITIONS, (n / PARTITIONS + 1) as usize % 2);
        }
        done.store(true, Ordering::Relaxed);
    });
    let acknowledged = acknowledged.load(Ordering::Relaxed);
    eventually("every position is committed", async || {
        let lag = |log: &Arc<EmbeddedLog>| log.reader(GROUP).unwrap().lag()[0].1;
        logs.iter().map(lag).sum::<u64>() == 0
    })
    .await;
    stop.cancel();
    for member in members {
        member.await.unwrap().unwrap();
    }
    let distinct = "SELECT uniqExact(src_partition, src_offset, src_index) FROM health_events";
    assert_eq!(number(&client, distinct).await, acknowledged, "lost");
    let raw = number(&client, "SELECT count() FROM health_events").await;
    assert_eq!(raw, acknowledged, "counted twice");
    let launches = number(&client, "SELECT sum(launches) FROM device_hours").await;
    assert_eq!(launches, acknowledged, "views have what raw has");
}
