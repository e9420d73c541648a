//! The committer against a log that the test holds in its hands.

use std::sync::mpsc;

use proptest::prelude::*;
use sluice_schema::frame::Frame;

use super::*;
use crate::{Appended, Completion, Health, LogError, LogReader, Offset};

/// A log that leaves every record's fate to the test.
struct HeldLog {
    records: Mutex<mpsc::Sender<(Record, Completion)>>,
}

impl EventLog for HeldLog {
    fn partitions(&self) -> u32 {
        3
    }

    fn append(&self, record: Record, done: Completion) {
        let records = self.records.lock().unwrap();
        records.send((record, done)).unwrap();
    }

    fn reader(&self, _group: &str) -> Result<Box<dyn LogReader>, LogError> {
        Err(LogError::Fatal("not read in these tests".to_owned()))
    }

    fn trim(&self, _partition: Partition, _upto: Offset) -> Result<(), LogError> {
        Ok(())
    }

    fn health(&self) -> Health {
        Health::Ready
    }
}

type Held = mpsc::Receiver<(Record, Completion)>;

fn start(config: CommitterConfig) -> (Committer, Held) {
    let (sender, held) = mpsc::channel();
    let log = Arc::new(HeldLog {
        records: Mutex::new(sender),
    });
    (Committer::start(log, config).unwrap(), held)
}

fn submission(bytes: usize, events: u32) -> Submission {
    Submission {
        project: Project::Id(ProjectId(1)),
        received_at_us: 1,
        kind: ContentKind::Health,
        payload: Bytes::from(vec![b'x'; bytes]),
        events,
    }
}

fn stored(record: &Record, done: Completion) {
    done(Ok(Appended {
        partition: record.partition,
        offset: 0,
    }));
}

#[test]
fn what_waits_while_a_frame_is_under_way_becomes_the_next_frame() {
    let (committer, held) = start(CommitterConfig {
        in_flight: 1,
        ..CommitterConfig::default()
    });
    let handle = committer.handle();
    let mut answers = vec![handle.enqueue(submission(10, 1)).unwrap()];
    let (first, first_done) = held.recv().unwrap();
    answers.extend((0..5).map(|_| handle.enqueue(submission(10, 1)).unwrap()));
    assert!(held.try_recv().is_err(), "one frame at a time");
    assert!(
        answers.iter_mut().all(|a| a.try_recv().is_err()),
        "nobody is answered early"
    );
    stored(&first, first_done);
    let (second, second_done) = held.recv().unwrap();
    assert_eq!(Frame::decode(&first.bytes).unwrap().header.requests, 1);
    assert_eq!(Frame::decode(&second.bytes).unwrap().header.requests, 5);
    stored(&second, second_done);
    for answer in answers {
        assert_eq!(answer.blocking_recv().unwrap(), Ok(()));
    }
}

#[test]
fn a_failed_frame_fails_its_requests_and_no_others() {
    let (committer, held) = start(CommitterConfig {
        in_flight: 2,
        ..CommitterConfig::default()
    });
    let handle = committer.handle();
    let lost = handle.enqueue(submission(10, 1)).unwrap();
    let (_, lost_done) = held.recv().unwrap();
    let kept = handle.enqueue(submission(10, 1)).unwrap();
    let (record, kept_done) = held.recv().unwrap();
    lost_done(Err(AppendError::Unknown("broker gone".to_owned())));
    stored(&record, kept_done);
    assert_eq!(lost.blocking_recv().unwrap(), Err(SubmitError::Unavailable));
    assert_eq!(kept.blocking_recv().unwrap(), Ok(()));
}

#[test]
fn a_full_queue_refuses_at_once() {
    let config = CommitterConfig {
        queue_bytes: 100,
        in_flight: 1,
    };
    let (committer, held) = start(config);
    let handle = committer.handle();
    let _under_way = handle.enqueue(submission(60, 1)).unwrap();
    let (record, done) = held.recv().unwrap();
    let _waits = handle.enqueue(submission(60, 1)).unwrap();
    let refused = handle.enqueue(submission(60, 1)).unwrap_err();
    assert_eq!(
        refused,
        SubmitError::Busy {
            retry_after: RETRY_AFTER
        }
    );
    stored(&record, done);
    let (record, done) = held.recv().unwrap();
    stored(&record, done);
    assert!(handle.enqueue(submission(60, 1)).is_ok(), "room again");
    let (record, done) = held.recv().unwrap();
    stored(&record, done);
}

#[test]
fn closing_answers_what_waits_and_refuses_the_rest() {
    let (mut committer, held) = start(CommitterConfig::default());
    let handle = committer.handle();
    let answer = handle.enqueue(submission(1, 1)).unwrap();
    let log = std::thread::spawn(move || {
        for (record, done) in held {
            stored(&record, done);
        }
    });
    committer.close();
    assert_eq!(answer.blocking_recv().unwrap(), Ok(()));
    assert_eq!(
        handle.enqueue(submission(1, 1)).unwrap_err(),
        SubmitError::Unavailable
    );
    drop((committer, handle));
    log.join().unwrap();
}

#[test]
fn every_partition_gets_its_turn_of_frames() {
    let turns: Vec<_> = (0..256).map(|frame| partition_of(frame, 3)).collect();
    assert!(turns[..64].iter().all(|p| *p == 0));
    assert!(turns[64..128].iter().all(|p| *p == 1));
    assert!(turns[192..].iter().all(|p| *p == 0));
}

proptest! {
    #[test]
    fn frames_are_full_prefixes_of_what_waits(sizes in proptest::collection::vec((0..400_000_usize, 0..20_000_u32), 1..60)) {
        let mut state = State::default();
        for (bytes, events) in &sizes {
            state.waiting_bytes += bytes;
            let answer = oneshot::channel().0;
            state.waiting.push_back(Waiting { submission: submission(*bytes, *events), answer });
        }
        let mut seen = Vec::new();
        while !state.waiting.is_empty() {
            let before = seen.len();
            let taken = take_frame(&mut state);
            seen.extend(taken.iter().map(|w| (w.submission.payload.len(), w.submission.events)));
            let bytes: usize = seen[before..].iter().map(|s| s.0).sum();
            let events: u32 = seen[before..].iter().map(|s| s.1).sum();
            let alone = seen.len() - before == 1;
            prop_assert!(alone || bytes <= sluice_schema::frame::MAX_FRAME_BYTES);
            prop_assert!(alone || events <= sluice_schema::frame::MAX_FRAME_EVENTS);
        }
        prop_assert_eq!(seen, sizes);
        prop_assert_eq!(state.waiting_bytes, 0);
    }
}
