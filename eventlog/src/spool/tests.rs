//! The spool in front of a primary that the test holds in its hands.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};

use sluice_schema::frame::{ContentKind, FrameBuilder, ProjectRef, Request, read_header};
use sluice_schema::id::{FrameId, ProjectId};
use tempfile::TempDir;

use super::*;

const PATIENCE: Duration = Duration::from_mins(1);
const CONFIG: SpoolConfig = SpoolConfig {
    deadline: Duration::from_millis(30),
    max_bytes: 1024 * 1024,
    reserve_bytes: 0,
};

/// Gives every append to the test, which decides its fate.
struct Primary {
    ready: AtomicBool,
    appends: Mutex<Sender<(Record, Completion)>>,
}

impl EventLog for Primary {
    fn partitions(&self) -> u32 {
        4
    }

    fn append(&self, record: Record, done: Completion) {
        let appends = self.appends.lock().unwrap();
        // The test has seen enough.
        let _ = appends.send((record, done));
    }

    fn reader(&self, _group: &str) -> Result<Box<dyn LogReader>, LogError> {
        Err(LogError::Fatal("not read in these tests".to_owned()))
    }

    fn trim(&self, _partition: Partition, _upto: Offset) -> Result<(), LogError> {
        Ok(())
    }

    fn health(&self) -> Health {
        if self.ready.load(Ordering::Relaxed) {
            Health::Ready
        } else {
            Health::NotReady("away".to_owned())
        }
    }
}

struct Setup {
    dir: TempDir,
    primary: Arc<Primary>,
    appends: Receiver<(Record, Completion)>,
    log: Option<SpooledLog>,
}

impl Setup {
    fn new() -> Self {
        let (sender, appends) = mpsc::channel();
        let primary = Arc::new(Primary {
            ready: AtomicBool::new(true),
            appends: Mutex::new(sender),
        });
        let mut setup = Self {
            dir: tempfile::tempdir().unwrap(),
            primary,
            appends,
            log: None,
        };
        setup.reopen(CONFIG);
        setup
    }

    fn reopen(&mut self, config: SpoolConfig) {
        self.log = None;
        let opened = SpooledLog::open(self.primary.clone(), self.dir.path(), config);
        self.log = Some(opened.unwrap());
    }

    fn log(&self) -> &SpooledLog {
        self.log.as_ref().unwrap()
    }

    fn ready(&self, ready: bool) {
        self.primary.ready.store(ready, Ordering::Relaxed);
    }

    fn append(&self, partition: Partition) -> (FrameId, Receiver<Result<Appended, AppendError>>) {
        let (done, answer) = mpsc::channel();
        let record = record(partition);
        let id = record.id;
        self.log()
            .append(record, Box::new(move |fate| done.send(fate).unwrap()));
        (id, answer)
    }

    fn next(&self) -> (Record, Completion) {
        self.appends.recv_timeout(PATIENCE).unwrap()
    }

    fn until_empty(&self) {
        let deadline = Instant::now() + PATIENCE;
        while self.log().backlog().frames > 0 {
            assert!(Instant::now() < deadline, "the spool is never empty");
            std::thread::yield_now();
        }
    }
}

fn record(partition: Partition) -> Record {
    let id = FrameId::new();
    let mut builder = FrameBuilder::new();
    let request = Request {
        project: ProjectRef::Id(ProjectId(1)),
        received_at_us: 1,
        kind: ContentKind::Health,
        payload: id.0.as_bytes(),
    };
    builder.push(&request, 1);
    Record {
        id,
        partition,
        bytes: builder.finish(id),
    }
}

/// Id and mark of what the primary was given, and its partition.
fn seen(record: &Record) -> (FrameId, bool, Partition) {
    let header = read_header(&record.bytes).unwrap();
    (header.id, header.replay, record.partition)
}

fn stored(record: &Record, done: Completion) {
    done(Ok(Appended {
        partition: record.partition,
        offset: 0,
    }));
}

fn unknown(done: Completion) {
    done(Err(AppendError::Unknown("timed out".to_owned())));
}

#[test]
fn a_waiter_is_released_by_the_spool_and_its_frame_sent_again_with_the_mark() {
    let setup = Setup::new();
    let (id, answer) = setup.append(3);
    let (original, report) = setup.next();
    assert_eq!(seen(&original), (id, false, 3));
    assert!(answer.recv_timeout(PATIENCE).unwrap().is_ok());
    assert!(
        setup.appends.try_recv().is_err(),
        "the original may yet arrive"
    );
    unknown(report);
    let (again, report) = setup.next();
    assert_eq!(seen(&again), (id, true, 3));
    stored(&again, report);
    setup.until_empty();
}

#[test]
fn a_late_report_saves_the_second_sending() {
    let setup = Setup::new();
    let (_, answer) = setup.append(0);
    let (original, report) = setup.next();
    assert!(answer.recv_timeout(PATIENCE).unwrap().is_ok());
    stored(&original, report);
    setup.until_empty();
    let (id, _answer) = setup.append(1);
    assert_eq!(seen(&setup.next().0), (id, false, 1), "the primary is back");
}

#[test]
fn what_came_while_the_primary_was_away_is_drained_in_order_and_unmarked() {
    let setup = Setup::new();
    setup.ready(false);
    let frames: Vec<_> = (0..20).map(|n| setup.append(n % 4)).collect();
    for (_, answer) in &frames {
        assert!(answer.try_recv().unwrap().is_ok(), "answered at once");
    }
    assert_eq!(setup.log().backlog().frames, 20);
    assert_eq!(setup.log().health(), Health::Ready);
    setup.ready(true);
    for (n, (id, _)) in frames.iter().enumerate() {
        let (record, report) = setup.next();
        assert_eq!(seen(&record), (*id, false, n as u32 % 4));
        stored(&record, report);
    }
    setup.until_empty();
}

#[test]
fn after_a_restart_only_what_may_have_been_sent_is_marked() {
    let mut setup = Setup::new();
    setup.ready(false);
    let first = setup.append(0).0;
    setup.ready(true);
    assert_eq!(
        seen(&setup.next().0),
        (first, false, 0),
        "sent, never reported"
    );
    setup.ready(false);
    let second = setup.append(1).0;
    setup.reopen(CONFIG);
    setup.ready(true);
    let (record, report) = setup.next();
    assert_eq!(seen(&record), (first, true, 0));
    stored(&record, report);
    let (record, report) = setup.next();
    assert_eq!(seen(&record), (second, false, 1));
    stored(&record, report);
    setup.until_empty();
    setup.reopen(CONFIG);
    assert_eq!(
        setup.log().backlog().frames,
        0,
        "nothing is sent a third time"
    );
}

#[test]
fn a_failed_drain_goes_on_where_it_failed() {
    let setup = Setup::new();
    setup.ready(false);
    let ids: Vec<_> = (0..3).map(|_| setup.append(2).0).collect();
    setup.ready(true);
    let (record, report) = setup.next();
    assert_eq!(seen(&record), (ids[0], false, 2));
    unknown(report);
    for (id, marked) in ids.iter().zip([true, false, false]) {
        let (record, report) = setup.next();
        assert_eq!(seen(&record), (*id, marked, 2));
        stored(&record, report);
    }
    setup.until_empty();
}

#[test]
fn a_full_spool_is_busy_and_says_so() {
    let mut setup = Setup::new();
    let small = SpoolConfig {
        max_bytes: 400,
        ..CONFIG
    };
    setup.reopen(small);
    setup.ready(false);
    let answers: Vec<_> = (0..10).map(|_| setup.append(0).1).collect();
    let answers: Vec<_> = answers.iter().map(|a| a.try_recv().unwrap()).collect();
    let kept = answers.iter().filter(|answer| answer.is_ok()).count();
    assert!((1..10).contains(&kept), "{kept}");
    assert!(matches!(answers[9], Err(AppendError::Busy { .. })));
    assert_eq!(setup.log().backlog().frames, kept as u64);
    let Health::NotReady(reason) = setup.log().health() else {
        panic!("a full spool and no primary");
    };
    assert!(reason.contains("spool is full"), "{reason}");
    setup.ready(true);
    for _ in 0..kept {
        let (record, report) = setup.next();
        stored(&record, report);
    }
    setup.until_empty();
    assert_eq!(setup.log().health(), Health::Ready);
}
