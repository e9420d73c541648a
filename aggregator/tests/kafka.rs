//! The aggregator's process over real Kafka: killed again and again while
//! events arrive, it counts each once. Runs with `SLUICE_TEST_KAFKA=1`.

#![cfg(feature = "kafka")]
#![allow(clippy::unwrap_used, reason = "helpers of a test")]

mod support;

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use sluice_aggregator::config::ClickHouseConfig;
use sluice_engines::Kafka;
use sluice_engines::testing::{ClickHouseDatabase, clickhouse};
use sluice_eventlog::kafka::{KafkaConfig, KafkaLog};
use sluice_eventlog::{EventLog, Health, Record, topics};
use sluice_schema::id::FrameId;
use sluice_service::config::Secret;
use support::*;

const PARTITIONS: u32 = 3;
const LAUNCHES_PER_FRAME: u64 = 40;
const RAW: &str = "SELECT count() FROM health_events";

struct Aggregator(Child);

impl Aggregator {
    fn start(brokers: &str, store: &ClickHouseDatabase) -> Self {
        let child = Command::new(env!("CARGO_BIN_EXE_sluice-aggregator"))
            .env("SLUICE_KAFKA_BROKERS", brokers)
            .env("SLUICE_KAFKA_PARTITIONS", PARTITIONS.to_string())
            .env("SLUICE_INSTANCE_ID", "aggregator-1")
            .env("SLUICE_ADMIN_LISTEN", "127.0.0.1:0")
            .env("SLUICE_CLICKHOUSE_URL", &store.url)
            .env("SLUICE_CLICKHOUSE_USER", &store.user)
            .env("SLUICE_CLICKHOUSE_PASSWORD", &store.password)
            .env("SLUICE_CLICKHOUSE_DATABASE", &store.database)
            // Slugs are resolved there; these frames have none.
            .env("SLUICE_POSTGRES_URL", "postgres://nobody@127.0.0.1:1/none")
            .stdout(Stdio::null())
            .spawn();
        Self(child.unwrap())
    }

    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Aggregator {
    fn drop(&mut self) {
        // It may have ended; it must not outlive the test.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Appends frames until told to stop, waiting for each.
fn load(log: &KafkaLog, stop: &AtomicBool, acknowledged: &AtomicU64) {
    for n in 0_u64.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let devices = n * LAUNCHES_PER_FRAME..(n + 1) * LAUNCHES_PER_FRAME;
        let bodies: Vec<_> = devices.map(|device| launch(&device.to_string())).collect();
        let (done, appended) = std::sync::mpsc::channel();
        let id = FrameId::new();
        let record = Record {
            id,
            partition: n as u32 % PARTITIONS,
            bytes: frame(id, &bodies),
        };
        log.append(record, Box::new(move |fate| done.send(fate).unwrap()));
        appended.recv().unwrap().unwrap();
        acknowledged.fetch_add(LAUNCHES_PER_FRAME, Ordering::Relaxed);
        // The load's pace, not a wait for something.
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_aggregator_counts_everything_once() {
    if std::env::var("SLUICE_TEST_KAFKA").is_ok_and(|value| value == "1") {
        let store = tokio::task::spawn_blocking(clickhouse).await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().to_owned();
        let cluster = tokio::task::spawn_blocking(move || Kafka::start(&at, 1).unwrap());
        killed_again_and_again(cluster.await.unwrap(), store).await;
    }
}

async fn killed_again_and_again(cluster: Kafka, store: ClickHouseDatabase) {
    let client = ClickHouseConfig {
        url: store.url.clone(),
        user: store.user.clone(),
        password: Some(Secret::new(&store.password)),
        database: store.database.clone(),
    }
    .client();
    let mut aggregator = Aggregator::start(&cluster.brokers(), &store);
    let log = Arc::new(
        KafkaLog::open(KafkaConfig {
            partitions: PARTITIONS,
            ..KafkaConfig::new(cluster.brokers(), topics::HEALTH)
        })
        .unwrap(),
    );
    eventually("the topic", async || log.health() == Health::Ready).await;
    let (stop, acknowledged) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    let loader = {
        let (log, stop, acknowledged) = (log.clone(), stop.clone(), acknowledged.clone());
        std::thread::spawn(move || load(&log, &stop, &acknowledged))
    };
    let rows = async || client.query(RAW).fetch_one::<u64>().await.unwrap_or(0);
    for round in 0..3_u64 {
        let before = rows().await;
        eventually("rows arrive", async || rows().await > before).await;
        // Anywhere in the cycle of about a second.
        let moment = u64::from(FrameId::new().0.as_bytes()[15]) * 4;
        tokio::time::sleep(Duration::from_millis(moment)).await;
        aggregator.kill();
        println!("round {round}: killed {moment} ms after rows arrived");
        aggregator = Aggregator::start(&cluster.brokers(), &store);
    }
    stop.store(true, Ordering::Relaxed);
    loader.join().unwrap();
    let acknowledged = acknowledged.load(Ordering::Relaxed);
    eventually("everything is stored", async || {
        rows().await >= acknowledged
    })
    .await;
    eventually("views have what raw has", async || {
        number(&client, "SELECT sum(launches) FROM device_hours").await >= acknowledged
    })
    .await;
    assert_eq!(rows().await, acknowledged, "counted twice");
    let distinct =
        "SELECT uniqExact(src_topic, src_partition, src_offset, src_index) FROM health_events";
    assert_eq!(number(&client, distinct).await, acknowledged, "lost");
    let launches = number(&client, "SELECT sum(launches) FROM device_hours").await;
    assert_eq!(launches, acknowledged, "views count once");
    println!("{acknowledged} launches over 3 kills");
    drop(aggregator);
    drop(log);
    tokio::task::spawn_blocking(|| cluster.kill())
        .await
        .unwrap();
}
