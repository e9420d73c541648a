//! What every log must do, whatever it is made of, and helpers for tests of one.

#![allow(
    clippy::unwrap_used,
    dead_code,
    unreachable_pub,
    reason = "helpers of tests, each used by some"
)]

use std::collections::BTreeMap;
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use bytes::Bytes;
use sluice_eventlog::{
    AppendError, Appended, EventLog, Health, LogReader, Offset, Partition, ReadEvent, Record,
};
use sluice_schema::frame::{ContentKind, FrameBuilder, ProjectRef, Request};
use sluice_schema::id::{FrameId, ProjectId};

pub const PATIENCE: Duration = Duration::from_mins(1);
pub const GROUP: &str = "suite";
const POLL_BYTES: usize = 1024 * 1024;
const POLL_WAIT: Duration = Duration::from_millis(50);

pub type Fate = Result<Appended, AppendError>;

/// A log that can be closed and opened again as the same or as another process.
pub trait Backend {
    fn open(&self, process: &str) -> Box<dyn EventLog>;
}

impl<F: Fn(&str) -> Box<dyn EventLog>> Backend for F {
    fn open(&self, process: &str) -> Box<dyn EventLog> {
        self(process)
    }
}

/// A frame with one request of so many incompressible bytes.
pub fn frame_of(payload_bytes: usize) -> (FrameId, Bytes) {
    let id = FrameId::new();
    let mut state = id.0.as_u128() as u64 | 1;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    let payload: Vec<u8> = (0..payload_bytes).map(|_| random()).collect();
    let mut builder = FrameBuilder::new();
    let request = Request {
        project: ProjectRef::Id(ProjectId(1)),
        received_at_us: 1,
        kind: ContentKind::Health,
        payload: &payload,
    };
    builder.push(&request, 1);
    (id, builder.finish(id))
}

/// Appends without waiting.
pub fn send(log: &dyn EventLog, partition: Partition, bytes: Bytes) -> Receiver<Fate> {
    let (done, fate) = mpsc::channel();
    let record = Record {
        id: FrameId::new(),
        partition,
        bytes,
    };
    // A test that has failed does not wait for it.
    let tell = move |result| drop(done.send(result));
    log.append(record, Box::new(tell));
    fate
}

/// Appends and waits for its fate, which must be told once.
pub fn append(log: &dyn EventLog, partition: Partition, bytes: Bytes) -> Fate {
    let fate = send(log, partition, bytes);
    let result = fate.recv_timeout(PATIENCE).expect("the fate is told");
    assert!(fate.try_recv().is_err(), "and told once");
    result
}

/// Waits until a condition holds.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub fn until_ready(log: &dyn EventLog) {
    eventually("the log is ready", || log.health() == Health::Ready);
}

/// Everything that a reader was told.
#[derive(Default)]
pub struct Seen {
    pub assigned: BTreeMap<Partition, Offset>,
    pub records: BTreeMap<Partition, Vec<(Offset, Bytes)>>,
    pub gaps: Vec<(Partition, Offset, Offset)>,
}

impl Seen {
    pub fn count(&self) -> usize {
        self.records.values().map(Vec::len).sum()
    }

    pub fn bytes(&self) -> BTreeMap<Partition, Vec<Bytes>> {
        let partitions = self.records.iter();
        partitions
            .map(|(p, records)| (*p, records.iter().map(|(_, bytes)| bytes.clone()).collect()))
            .collect()
    }

    /// The positions after all that was read.
    pub fn next(&self) -> Vec<(Partition, Offset)> {
        let last = |records: &Vec<(Offset, Bytes)>| records.last().map(|(at, _)| at + 1);
        let partitions = self.records.iter();
        partitions
            .filter_map(|(p, r)| Some((*p, last(r)?)))
            .collect()
    }

    /// Takes in one event, and checks that it makes sense.
    pub fn poll(&mut self, reader: &mut dyn LogReader) {
        match reader.poll(POLL_BYTES, POLL_WAIT).unwrap() {
            ReadEvent::Assigned(assigned) => self.assigned.extend(assigned),
            ReadEvent::Revoked { partitions, .. } => {
                for partition in partitions {
                    self.assigned.remove(&partition);
                }
            }
            ReadEvent::Records {
                partition,
                records,
                next,
            } => {
                assert!(
                    self.assigned.contains_key(&partition),
                    "records of another's"
                );
                assert!(records.windows(2).all(|w| w[0].offset < w[1].offset));
                assert_eq!(records.last().map(|r| r.offset + 1), Some(next));
                let seen = self.records.entry(partition).or_default();
                seen.extend(records.into_iter().map(|r| (r.offset, r.bytes)));
            }
            ReadEvent::Gap {
                partition,
                from,
                to,
            } => self.gaps.push((partition, from, to)),
            ReadEvent::Idle => {}
        }
    }

    /// Reads on until something holds.
    pub fn until(&mut self, what: &str, reader: &mut dyn LogReader, holds: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds(self) {
            assert!(Instant::now() < deadline, "never happened: {what}");
            self.poll(reader);
        }
    }
}

/// Reads as a new member until `count` records are there.
pub fn read(reader: &mut dyn LogReader, count: usize) -> Seen {
    let mut seen = Seen::default();
    seen.until(&format!("{count} records"), reader, |seen| {
        seen.count() >= count
    });
    assert_eq!(seen.count(), count);
    seen
}

/// Appends so many frames to each partition; what was appended.
pub fn fill(log: &dyn EventLog, each: usize) -> BTreeMap<Partition, Vec<Bytes>> {
    let mut appended: BTreeMap<Partition, Vec<Bytes>> = BTreeMap::new();
    let mut fates = Vec::new();
    for _ in 0..each {
        for partition in 0..log.partitions() {
            let (_, bytes) = frame_of(200);
            fates.push((partition, send(log, partition, bytes.clone())));
            appended.entry(partition).or_default().push(bytes);
        }
    }
    for (partition, fate) in fates {
        let place = fate.recv_timeout(PATIENCE).unwrap().unwrap();
        assert_eq!(place.partition, partition);
    }
    appended
}

/// What every backend promises, over the life of one log.
pub fn conforms(backend: &dyn Backend) {
    let log = backend.open("one");
    let appended = fill(&*log, 10);
    let total: usize = appended.values().map(Vec::len).sum();

    // In the order of the appends, per partition.
    let mut reader = log.reader(GROUP).unwrap();
    let seen = read(&mut *reader, total);
    assert_eq!(seen.bytes(), appended);
    assert!(seen.gaps.is_empty());
    lag_is(&mut *reader, 0);
    let incarnation = reader.incarnation();

    // A reader may go back.
    let (partition, records) = seen.records.first_key_value().unwrap();
    reader.seek(*partition, records[5].0).unwrap();
    let mut again = Seen {
        assigned: seen.assigned.clone(),
        ..Seen::default()
    };
    again.until("records again", &mut *reader, |again| again.count() == 5);
    assert_eq!(again.records[partition], records[5..]);

    // Without a commit everything comes again, in another process too.
    drop(reader);
    drop(log);
    let log = backend.open("one");
    let mut reader = log.reader(GROUP).unwrap();
    assert_eq!(reader.incarnation(), incarnation);
    let seen = read(&mut *reader, total);
    assert_eq!(seen.bytes(), appended);

    // With one, only what is new does. What may be trimmed is below every position.
    reader.commit(&seen.next()).unwrap();
    for (partition, next) in seen.next() {
        log.trim(partition, next + 100).unwrap();
    }
    drop(reader);
    drop(log);
    let log = backend.open("one");
    let new = fill(&*log, 3);
    let mut reader = log.reader(GROUP).unwrap();
    let seen = read(&mut *reader, new.values().map(Vec::len).sum());
    assert_eq!(seen.bytes(), new);

    // Above the position nothing goes.
    for (partition, next) in seen.next() {
        log.trim(partition, next).unwrap();
    }
    drop(reader);
    drop(log);
    let log = backend.open("one");
    let mut reader = log.reader(GROUP).unwrap();
    let seen = read(&mut *reader, new.values().map(Vec::len).sum());
    assert_eq!(seen.bytes(), new);
    assert!(seen.gaps.is_empty());

    // Too large for any log.
    let (_, bytes) = frame_of(5 * 1024 * 1024);
    assert!(matches!(
        append(&*log, 0, bytes),
        Err(AppendError::TooLarge)
    ));
}

pub fn lag_is(reader: &mut dyn LogReader, lag: u64) {
    eventually("the lag", || {
        let lags = reader.lag();
        !lags.is_empty() && lags.iter().map(|(_, lag)| lag).sum::<u64>() == lag
    });
}
