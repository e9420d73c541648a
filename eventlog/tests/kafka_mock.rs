//! The Kafka log over librdkafka's mock cluster: what a client can be shown
//! without a broker. The mock has no admin API, so topics are made by the test.

#![cfg(feature = "kafka")]
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr as Code};
use sluice_eventlog::kafka::{KafkaConfig, KafkaLog};
use sluice_eventlog::spool::{SpoolConfig, SpooledLog};
use sluice_eventlog::{AppendError, CommitError, EventLog, Health, Partition};
use sluice_schema::frame::read_header;
use sluice_schema::id::FrameId;
use support::*;

const TOPIC: &str = "sluice.health.v1";
/// All brokers.
const ALL: i32 = -1;

type Cluster = MockCluster<'static, DefaultProducerContext>;

fn cluster(partitions: u32) -> Cluster {
    let cluster = MockCluster::new(3).unwrap();
    cluster.create_topic(TOPIC, partitions as i32, 3).unwrap();
    cluster
}

fn config(cluster: &Cluster) -> KafkaConfig {
    KafkaConfig {
        message_timeout: Duration::from_secs(2),
        // The least that the mock takes; it waits for it, less a second, whenever a group changes.
        session_timeout: Duration::from_secs(6),
        ..KafkaConfig::new(cluster.bootstrap_servers(), TOPIC)
    }
}

fn open(cluster: &Cluster) -> KafkaLog {
    let log = KafkaLog::open(config(cluster)).unwrap();
    until_ready(&log);
    log
}

fn inject(cluster: &Cluster, what: RDKafkaApiKey, errors: &[Code]) {
    cluster.request_errors(what, errors);
}

#[test]
fn the_kafka_log_conforms() {
    let cluster = cluster(2);
    conforms(&|_: &str| -> Box<dyn EventLog> {
        let log = open(&cluster);
        assert_eq!(
            log.partitions(),
            2,
            "what the topic has, not what was configured"
        );
        Box::new(log)
    });
}

#[test]
fn passing_errors_are_retried_and_lasting_ones_are_rejected() {
    let cluster = cluster(1);
    let log = open(&cluster);
    for errors in [
        [Code::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION; 2],
        [Code::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS; 2],
        [Code::RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT; 2],
    ] {
        inject(&cluster, RDKafkaApiKey::Produce, &errors);
        append(&log, 0, frame_of(100).1).unwrap();
    }
    let refused = |error| {
        inject(&cluster, RDKafkaApiKey::Produce, &[error]);
        append(&log, 0, frame_of(100).1)
    };
    let fate = refused(Code::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE);
    assert!(matches!(fate, Err(AppendError::TooLarge)), "{fate:?}");
    // The client remembers this one until it asks for the topic again.
    let fate = refused(Code::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED);
    assert!(matches!(fate, Err(AppendError::Rejected(_))), "{fate:?}");
}

#[test]
fn a_request_of_two_mebibytes_fits() {
    let cluster = cluster(1);
    let log = open(&cluster);
    append(&log, 0, frame_of(2 * 1024 * 1024).1).unwrap();
}

#[test]
fn with_brokers_down_appends_are_unknown_then_busy_and_work_again_after() {
    let cluster = cluster(1);
    let log = open(&cluster);
    append(&log, 0, frame_of(100).1).unwrap();
    cluster.broker_down(ALL).unwrap();
    let lost = append(&log, 0, frame_of(100).1);
    assert!(matches!(lost, Err(AppendError::Unknown(_))), "{lost:?}");
    assert!(matches!(log.health(), Health::NotReady(_)));
    let (_, large) = frame_of(2 * 1024 * 1024);
    let fates: Vec<_> = (0..40).map(|_| send(&log, 0, large.clone())).collect();
    let busy = fates[39].try_recv();
    assert!(
        matches!(busy, Ok(Err(AppendError::Busy { .. }))),
        "{busy:?}"
    );
    for fate in &fates[..39] {
        assert!(fate.recv_timeout(PATIENCE).unwrap().is_err());
    }
    cluster.broker_up(ALL).unwrap();
    eventually("appends work again", || {
        append(&log, 0, frame_of(100).1).is_ok()
    });
    until_ready(&log);
}

#[test]
fn commits_say_whether_to_repeat_or_to_let_go() {
    let cluster = cluster(1);
    let log = open(&cluster);
    fill(&log, 3);
    let mut reader = log.reader(GROUP).unwrap();
    read(&mut *reader, 3);
    let mut commit = |error| {
        inject(&cluster, RDKafkaApiKey::OffsetCommit, &[error]);
        reader.commit(&[(0, 3)])
    };
    let again = commit(Code::RD_KAFKA_RESP_ERR_REBALANCE_IN_PROGRESS);
    assert!(matches!(again, Err(CommitError::Retry(_))), "{again:?}");
    let lost = commit(Code::RD_KAFKA_RESP_ERR_ILLEGAL_GENERATION);
    assert!(matches!(lost, Err(CommitError::Lost)), "{lost:?}");
}

#[test]
fn a_fetch_outside_the_log_that_is_none_goes_on_where_it_was() {
    let cluster = cluster(1);
    let log = open(&cluster);
    let mut appended = fill(&log, 3);
    let mut reader = log.reader(GROUP).unwrap();
    let mut seen = read(&mut *reader, 3);
    inject(
        &cluster,
        RDKafkaApiKey::Fetch,
        &[Code::RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE],
    );
    for (partition, frames) in fill(&log, 3) {
        appended.entry(partition).or_default().extend(frames);
    }
    seen.until("the rest", &mut *reader, |seen| seen.count() == 6);
    assert_eq!(seen.bytes(), appended);
    assert!(seen.gaps.is_empty());
}

#[test]
fn a_position_that_the_log_has_dropped_is_a_gap() {
    let cluster = cluster(1);
    let log = open(&cluster);
    append(&log, 0, frame_of(100).1).unwrap();
    let mut reader = log.reader(GROUP).unwrap();
    let seen = read(&mut *reader, 1);
    reader.commit(&seen.next()).unwrap();
    drop(reader);
    // A partition of the mock keeps about 5 MB.
    let last = (0..5).map(|_| append(&log, 0, frame_of(2_000_000).1).unwrap());
    let last = last.max_by_key(|place| place.offset).unwrap().offset;
    let mut reader = log.reader(GROUP).unwrap();
    let mut seen = Seen::default();
    seen.until("what is left", &mut *reader, |seen| {
        seen.next() == [(0, last + 1)]
    });
    assert_eq!(seen.assigned[&0], 1, "the committed position");
    let first = seen.records[&0][0].0;
    assert!(first > 1);
    assert_eq!(seen.gaps, [(0, 1, first)]);
}

#[test]
fn two_readers_share_the_partitions_and_the_second_ones_half_returns() {
    let cluster = cluster(4);
    let log = open(&cluster);
    let mut first = log.reader(GROUP).unwrap();
    let mut seen = Seen::default();
    seen.until("all partitions", &mut *first, |seen| {
        seen.assigned.len() == 4
    });
    let mut second = log.reader(GROUP).unwrap();
    let mut of_second = Seen::default();
    eventually("half of them each", || {
        seen.poll(&mut *first);
        of_second.poll(&mut *second);
        seen.assigned.len() == 2 && of_second.assigned.len() == 2
    });
    let appended = fill(&log, 5);
    eventually("all records", || {
        seen.poll(&mut *first);
        of_second.poll(&mut *second);
        seen.count() + of_second.count() == 20
    });
    let mut read = seen.bytes();
    read.extend(of_second.bytes());
    assert_eq!(read, appended);
    second.commit(&of_second.next()).unwrap();
    let committed = of_second.next();
    drop(second);
    seen.until("all partitions again", &mut *first, |seen| {
        seen.assigned.len() == 4
    });
    for (partition, next) in committed {
        assert_eq!(
            seen.assigned[&partition], next,
            "goes on where the other was"
        );
    }
}

fn spooled(cluster: &Cluster, dir: &tempfile::TempDir) -> SpooledLog {
    let primary = Arc::new(KafkaLog::open(config(cluster)).unwrap());
    let config = SpoolConfig {
        deadline: Duration::from_millis(300),
        reserve_bytes: 0,
        ..SpoolConfig::default()
    };
    SpooledLog::open(primary, dir.path(), config).unwrap()
}

/// Ids of frames, counted as a reader does: a marked one only if it is not there yet.
fn counted(seen: &Seen) -> Vec<FrameId> {
    let mut counted = Vec::new();
    for records in seen.records.values() {
        let mut known = BTreeSet::new();
        for (_, bytes) in records {
            let header = read_header(bytes).unwrap();
            if known.insert(header.id.0) || !header.replay {
                counted.push(header.id);
            }
        }
    }
    counted
}

fn acknowledge(log: &SpooledLog, n: u32, acknowledged: &mut Vec<(Partition, FrameId)>) {
    let partition = n % log.partitions();
    let (id, bytes): (FrameId, Bytes) = frame_of(200);
    append(log, partition, bytes).unwrap();
    acknowledged.push((partition, id));
}

/// Everything that was acknowledged is in the log, and counts once.
fn delivered(log: &SpooledLog, acknowledged: &[(Partition, FrameId)]) {
    eventually("the spool is empty", || log.backlog().frames == 0);
    let mut reader = log.reader(GROUP).unwrap();
    let mut seen = Seen::default();
    seen.until("everything", &mut *reader, |seen| {
        counted(seen).len() >= acknowledged.len()
    });
    lag_is(&mut *reader, 0);
    let mut counted: Vec<_> = counted(&seen).iter().map(|id| id.0).collect();
    let mut expected: Vec<_> = acknowledged.iter().map(|(_, id)| id.0).collect();
    counted.sort();
    expected.sort();
    assert_eq!(counted, expected);
    for (partition, id) in acknowledged {
        let records = &seen.records[partition];
        let there = |(_, bytes): &(u64, Bytes)| read_header(bytes).unwrap().id == *id;
        assert!(records.iter().any(there), "in its partition");
    }
}

#[test]
fn brokers_that_go_and_come_back_lose_nothing_that_the_spool_acknowledged() {
    let cluster = cluster(3);
    let dir = tempfile::tempdir().unwrap();
    let log = spooled(&cluster, &dir);
    let mut acknowledged = Vec::new();
    until_ready(&log);
    for round in 0..2 {
        (0..20).for_each(|n| acknowledge(&log, n, &mut acknowledged));
        cluster.broker_down(ALL).unwrap();
        let since = Instant::now();
        (0..20).for_each(|n| acknowledge(&log, n, &mut acknowledged));
        // One deadline and syncs, not one time-out a frame.
        assert!(since.elapsed() < Duration::from_secs(10), "round {round}");
        assert!(log.backlog().frames > 0);
        cluster.broker_up(ALL).unwrap();
        eventually("the spool is empty", || log.backlog().frames == 0);
    }
    delivered(&log, &acknowledged);
}

#[test]
fn a_spool_starts_before_the_brokers_do() {
    let cluster = cluster(3);
    cluster.broker_down(ALL).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = Vec::new();
    {
        let log = spooled(&cluster, &dir);
        (0..30).for_each(|n| acknowledge(&log, n, &mut acknowledged));
        assert_eq!(log.backlog().frames, 30);
    }
    let log = spooled(&cluster, &dir);
    assert_eq!(log.backlog().frames, 30, "after a restart too");
    cluster.broker_up(ALL).unwrap();
    // Configured for more partitions than the topic turns out to have.
    let acknowledged: Vec<_> = acknowledged.iter().map(|(p, id)| (p % 3, *id)).collect();
    delivered(&log, &acknowledged);
}

#[test]
fn a_slow_cluster_does_not_make_waiters_wait_and_is_not_sent_things_twice() {
    let cluster = cluster(3);
    let dir = tempfile::tempdir().unwrap();
    let log = spooled(&cluster, &dir);
    let mut acknowledged = Vec::new();
    eventually("the primary takes frames at once", || {
        let before = log.backlog().frames;
        acknowledge(&log, 0, &mut acknowledged);
        before == 0 && log.backlog().frames == 0
    });
    let slow = Duration::from_millis(1_200);
    cluster.broker_round_trip_time(ALL, slow).unwrap();
    let since = Instant::now();
    acknowledge(&log, 0, &mut acknowledged);
    assert!(since.elapsed() < slow, "released by the spool");
    (0..5).for_each(|n| acknowledge(&log, n, &mut acknowledged));
    cluster.broker_round_trip_time(ALL, Duration::ZERO).unwrap();
    delivered(&log, &acknowledged);
}
