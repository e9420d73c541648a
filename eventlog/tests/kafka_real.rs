//! The Kafka log over real brokers: what a mock cannot show. Runs with
//! `SLUICE_TEST_KAFKA=1`, which needs Java 17 and, once, Maven.

#![cfg(feature = "kafka")]
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::topic_partition_list::{Offset as KafkaOffset, TopicPartitionList};
use sluice_engines::Kafka;
use sluice_eventlog::kafka::{KafkaConfig, KafkaLog};
use sluice_eventlog::spool::{SpoolConfig, SpooledLog};
use sluice_eventlog::{AppendError, EventLog};
use sluice_schema::frame::read_header;
use support::*;

fn wanted() -> bool {
    std::env::var("SLUICE_TEST_KAFKA").is_ok_and(|value| value == "1")
}

fn config(cluster: &Kafka, topic: &str, instance: &str) -> KafkaConfig {
    KafkaConfig {
        partitions: 4,
        instance_id: Some(instance.to_owned()),
        ..KafkaConfig::new(cluster.brokers(), topic)
    }
}

fn open(cluster: &Kafka, topic: &str, instance: &str) -> KafkaLog {
    let log = KafkaLog::open(config(cluster, topic, instance)).unwrap();
    until_ready(&log);
    log
}

fn admin(cluster: &Kafka) -> AdminClient<DefaultClientContext> {
    let mut config = rdkafka::ClientConfig::new();
    config.set("bootstrap.servers", cluster.brokers());
    config.create().unwrap()
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.unwrap().block_on(future)
}

/// One broker for all of these: it takes seconds to start.
#[test]
fn over_one_broker() {
    if !wanted() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let cluster = Kafka::start(dir.path(), 1).unwrap();
    many_create_the_topic(&cluster);
    conforms(&|process: &str| -> Box<dyn EventLog> { Box::new(open(&cluster, "suite", process)) });
    two_static_members_share(&cluster);
    a_topic_of_the_same_name_is_another(&cluster);
    retention_leaves_a_gap(&cluster);
    cluster.kill();
}

fn many_create_the_topic(cluster: &Kafka) {
    let open = |n: usize| KafkaLog::open(config(cluster, "many", &n.to_string())).unwrap();
    let logs: Vec<KafkaLog> = (0..6).map(open).collect();
    for log in &logs {
        until_ready(log);
        assert_eq!(log.partitions(), 4);
        append(log, 3, frame_of(2 * 1024 * 1024).1).unwrap();
    }
}

fn two_static_members_share(cluster: &Kafka) {
    let log = open(cluster, "shared", "a");
    let other = open(cluster, "shared", "b");
    let (mut first, mut second) = (log.reader(GROUP).unwrap(), other.reader(GROUP).unwrap());
    let (mut of_first, mut of_second) = (Seen::default(), Seen::default());
    eventually("half of them each", || {
        of_first.poll(&mut *first);
        of_second.poll(&mut *second);
        of_first.assigned.len() == 2 && of_second.assigned.len() == 2
    });
    let appended = fill(&log, 5);
    eventually("all records", || {
        of_first.poll(&mut *first);
        of_second.poll(&mut *second);
        of_first.count() + of_second.count() == 20
    });
    let mut read = of_first.bytes();
    read.extend(of_second.bytes());
    assert_eq!(read, appended);
    // A member that comes back by its name has its partitions at once.
    let had: Vec<_> = of_second.assigned.keys().copied().collect();
    second.commit(&of_second.next()).unwrap();
    drop(second);
    let since = Instant::now();
    let mut second = other.reader(GROUP).unwrap();
    let mut again = Seen::default();
    again.until("its partitions", &mut *second, |seen| {
        seen.assigned.len() == 2
    });
    assert_eq!(again.assigned.keys().copied().collect::<Vec<_>>(), had);
    assert!(
        since.elapsed() < Duration::from_secs(20),
        "before its session ends"
    );
    assert_eq!(
        again.assigned.into_iter().collect::<Vec<_>>(),
        of_second.next()
    );
}

fn a_topic_of_the_same_name_is_another(cluster: &Kafka) {
    let log = open(cluster, "anew", "a");
    let before = log.reader(GROUP).unwrap().incarnation();
    assert_eq!(log.reader(GROUP).unwrap().incarnation(), before);
    drop(log);
    let deleted = block_on(admin(cluster).delete_topics(&["anew"], &AdminOptions::new()));
    deleted.unwrap()[0].as_ref().unwrap();
    let log = open(cluster, "anew", "a");
    eventually("the topic is there again", || log.reader(GROUP).is_ok());
    assert_ne!(log.reader(GROUP).unwrap().incarnation(), before);
}

fn retention_leaves_a_gap(cluster: &Kafka) {
    let log = open(cluster, "overtaken", "a");
    fill(&log, 10);
    let mut reader = log.reader(GROUP).unwrap();
    let seen = read(&mut *reader, 40);
    reader.commit(&[(0, 2), (1, 10), (2, 10), (3, 10)]).unwrap();
    let mut upto = TopicPartitionList::new();
    upto.add_partition_offset("overtaken", 0, KafkaOffset::Offset(7))
        .unwrap();
    block_on(admin(cluster).delete_records(&upto, &AdminOptions::new())).unwrap();

    // While it reads: a position that is gone is found by the next fetch.
    reader.seek(0, seen.records[&0][3].0).unwrap();
    let mut again = Seen {
        assigned: seen.assigned.clone(),
        ..Seen::default()
    };
    again.until("what is left", &mut *reader, |seen| seen.count() == 3);
    assert_eq!(again.gaps, [(0, 3, 7)]);
    drop(reader);

    // When it begins: the committed position is.
    let mut reader = log.reader(GROUP).unwrap();
    let mut begun = Seen::default();
    begun.until("what is left", &mut *reader, |seen| seen.count() == 3);
    assert_eq!((begun.assigned[&0], &begun.gaps[..]), (2, &[(0, 2, 7)][..]));

    // Nothing is left at all.
    let mut upto = TopicPartitionList::new();
    upto.add_partition_offset("overtaken", 0, KafkaOffset::End)
        .unwrap();
    block_on(admin(cluster).delete_records(&upto, &AdminOptions::new())).unwrap();
    reader.seek(0, 8).unwrap();
    begun.until("the gap", &mut *reader, |seen| seen.gaps.len() == 2);
    assert_eq!(begun.gaps[1], (0, 8, 10));
    lag_is(&mut *reader, 0);
}

#[test]
fn a_killed_broker_of_three_loses_nothing_and_waiters_do_not_wait_for_it() {
    if !wanted() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut cluster = Kafka::start(&dir.path().join("kafka"), 3).unwrap();
    let primary = Arc::new(open(&cluster, "killed", "a"));
    let spool = SpoolConfig {
        reserve_bytes: 0,
        ..SpoolConfig::default()
    };
    let log = SpooledLog::open(primary, &dir.path().join("spool"), spool).unwrap();
    let (mut acknowledged, mut longest) = (BTreeSet::new(), Duration::ZERO);
    let mut load = |log: &SpooledLog, frames: u32| {
        for n in 0..frames {
            let (id, bytes) = frame_of(500);
            let since = Instant::now();
            append(log, n % 4, bytes).unwrap();
            longest = longest.max(since.elapsed());
            acknowledged.insert(id.0);
        }
    };
    load(&log, 300);
    cluster.kill_node(1);
    let since = Instant::now();
    while since.elapsed() < Duration::from_secs(6) {
        load(&log, 20);
    }
    cluster.start_node(1).unwrap();
    load(&log, 300);
    eventually("the spool is empty", || log.backlog().frames == 0);
    println!("longest wait {longest:?}, {} frames", acknowledged.len());
    // The deadline, and room for a busy machine; the brokers stall for 3 s and more.
    assert!(longest < Duration::from_secs(3), "{longest:?}");

    let mut reader = log.reader(GROUP).unwrap();
    let mut seen = Seen::default();
    let ids = |seen: &Seen| -> BTreeSet<_> {
        let records = seen.records.values().flatten();
        records
            .map(|(_, bytes)| read_header(bytes).unwrap().id.0)
            .collect()
    };
    seen.until("everything", &mut *reader, |seen| {
        ids(seen).is_superset(&acknowledged)
    });
    lag_is(&mut *reader, 0);
    for records in seen.records.values() {
        let mut known = BTreeSet::new();
        for (_, bytes) in records {
            let header = read_header(bytes).unwrap();
            assert!(
                known.insert(header.id.0) || header.replay,
                "an unmarked duplicate"
            );
        }
    }
    drop(reader);
    drop(log);

    // Without a spool: two of three gone, what times out is unknown.
    let log = KafkaLog::open(KafkaConfig {
        message_timeout: Duration::from_secs(3),
        ..config(&cluster, "killed", "a")
    });
    let log = log.unwrap();
    until_ready(&log);
    eventually("an append works", || {
        append(&log, 0, frame_of(10).1).is_ok()
    });
    cluster.kill_node(0);
    cluster.kill_node(2);
    let lost = append(&log, 0, frame_of(10).1);
    assert!(matches!(lost, Err(AppendError::Unknown(_))), "{lost:?}");
    cluster.kill();
}
