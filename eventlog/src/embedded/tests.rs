//! The log against a model: what was acknowledged is read back, in order,
//! through crashes, torn writes, trims and full disks.

use std::io::Write as _;
use std::sync::mpsc;

use bytes::Bytes;
use proptest::prelude::*;
use sluice_schema::id::FrameId;

use super::*;
use crate::ReadEvent;

const SMALL: EmbeddedConfig = EmbeddedConfig {
    segment_bytes: 300,
    max_bytes: 4_000,
    reserve_bytes: 0,
};

fn append(log: &EmbeddedLog, bytes: Vec<u8>) -> Result<Appended, AppendError> {
    let (sent, received) = mpsc::channel();
    let record = Record {
        id: FrameId::new(),
        partition: 0,
        bytes: Bytes::from(bytes),
    };
    log.append(record, Box::new(move |fate| sent.send(fate).unwrap()));
    received
        .try_recv()
        .expect("the embedded log answers before it returns")
}

/// Everything from the group's position on.
fn drain(reader: &mut dyn LogReader) -> Vec<(Offset, Vec<u8>)> {
    let mut all = Vec::new();
    loop {
        match reader.poll(100, std::time::Duration::ZERO).unwrap() {
            ReadEvent::Records { records, next, .. } => {
                all.extend(records.into_iter().map(|r| (r.offset, r.bytes.to_vec())));
                assert_eq!(all.last().unwrap().0 + 1, next);
            }
            ReadEvent::Idle => return all,
            ReadEvent::Assigned(_) => {}
            other => panic!("unexpected {other:?}"),
        }
    }
}

#[derive(Clone, Debug)]
enum Action {
    Append(Vec<u8>),
    /// A crash in the middle of a write: this share of a record reached the disk.
    TornWrite(Vec<u8>, prop::sample::Index),
    Reopen,
    ReadAll,
    /// Commit this share of what was appended.
    Commit(prop::sample::Index),
    Trim,
}

fn any_action() -> impl Strategy<Value = Action> {
    let bytes = || proptest::collection::vec(any::<u8>(), 0..120);
    prop_oneof![
        6 => bytes().prop_map(Action::Append),
        2 => (bytes(), any::<prop::sample::Index>()).prop_map(|(b, i)| Action::TornWrite(b, i)),
        1 => Just(Action::Reopen),
        2 => Just(Action::ReadAll),
        2 => any::<prop::sample::Index>().prop_map(Action::Commit),
        2 => Just(Action::Trim),
    ]
}

struct Model {
    dir: tempfile::TempDir,
    log: Option<EmbeddedLog>,
    acknowledged: Vec<Vec<u8>>,
    committed: Option<u64>,
}

impl Model {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let log = Some(EmbeddedLog::open(dir.path(), SMALL).unwrap());
        Self {
            dir,
            log,
            acknowledged: Vec::new(),
            committed: None,
        }
    }

    fn log(&self) -> &EmbeddedLog {
        self.log.as_ref().unwrap()
    }

    fn reopen(&mut self) {
        self.log = None;
        self.log = Some(EmbeddedLog::open(self.dir.path(), SMALL).unwrap());
    }

    fn append(&mut self, bytes: Vec<u8>) {
        match append(self.log(), bytes.clone()) {
            Ok(appended) => {
                assert_eq!(appended.offset, self.acknowledged.len() as u64);
                self.acknowledged.push(bytes);
            }
            Err(AppendError::Busy { .. }) => assert!(self.log().bytes() + 200 > SMALL.max_bytes),
            Err(other) => panic!("{other}"),
        }
    }

    fn torn_write(&mut self, bytes: &[u8], share: prop::sample::Index) {
        self.log = None;
        let last = segment_firsts(self.dir.path())
            .unwrap()
            .into_iter()
            .max()
            .unwrap();
        let mut record = Vec::new();
        segment::encode_record(self.acknowledged.len() as u64, bytes, &mut record);
        let torn = &record[..share.index(record.len())];
        let path = segment_path(self.dir.path(), last);
        File::options()
            .append(true)
            .open(path)
            .unwrap()
            .write_all(torn)
            .unwrap();
        self.reopen();
    }

    fn check(&self) {
        let mut reader = self.log().reader("r").unwrap();
        let read = drain(&mut *reader);
        let from = self.committed.unwrap_or(0);
        let expected: Vec<_> = (from..)
            .zip(self.acknowledged[from as usize..].to_vec())
            .collect();
        assert_eq!(read, expected);
    }

    fn run(&mut self, action: Action) {
        match action {
            Action::Append(bytes) => self.append(bytes),
            Action::TornWrite(bytes, share) => self.torn_write(&bytes, share),
            Action::Reopen => self.reopen(),
            Action::ReadAll => self.check(),
            Action::Commit(share) => {
                let next = share.index(self.acknowledged.len() + 1) as u64;
                let next = next.max(self.committed.unwrap_or(0));
                self.log()
                    .reader("r")
                    .unwrap()
                    .commit(&[(0, next)])
                    .unwrap();
                self.committed = Some(next);
            }
            Action::Trim => self.log().trim(0, u64::MAX).unwrap(),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn delivered_is_acknowledged_in_order(actions in proptest::collection::vec(any_action(), 1..60)) {
        let mut model = Model::new();
        for action in actions {
            model.run(action);
        }
        model.reopen();
        model.check();
    }
}

#[test]
fn trim_frees_room_and_keeps_what_is_not_committed() {
    let mut model = Model::new();
    for index in 0..1_000_u32 {
        model.append(vec![index as u8; 100]);
    }
    let kept = model.acknowledged.len();
    assert!(kept < 100, "the cap refused the rest");
    model.log().trim(0, u64::MAX).unwrap();
    model.check();
    model
        .log()
        .reader("r")
        .unwrap()
        .commit(&[(0, kept as u64)])
        .unwrap();
    model.committed = Some(kept as u64);
    model.log().trim(0, u64::MAX).unwrap();
    model.append(vec![1; 100]);
    assert_eq!(model.acknowledged.len(), kept + 1, "there is room again");
    model.check();
}

#[test]
fn damage_in_the_middle_refuses_to_open() {
    let mut model = Model::new();
    for index in 0..8_u8 {
        model.append(vec![index; 100]);
    }
    model.log = None;
    let path = segment_path(model.dir.path(), 0);
    let mut bytes = fs::read(&path).unwrap();
    bytes[60] ^= 1;
    fs::write(&path, bytes).unwrap();
    let error = EmbeddedLog::open(model.dir.path(), SMALL)
        .err()
        .expect("refused");
    assert!(error.to_string().contains("damaged"), "{error}");
}

#[test]
fn a_bit_that_flips_while_open_is_not_served() {
    let model = Model::new();
    append(model.log(), vec![5; 100]).unwrap();
    let file = File::options()
        .write(true)
        .open(segment_path(model.dir.path(), 0))
        .unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[9], 70).unwrap();
    let mut reader = model.log().reader("r").unwrap();
    assert!(matches!(
        reader.poll(100, std::time::Duration::ZERO),
        Ok(ReadEvent::Assigned(_))
    ));
    assert!(matches!(
        reader.poll(100, std::time::Duration::ZERO),
        Err(LogError::Fatal(_))
    ));
}

#[test]
fn a_second_opener_is_refused() {
    let model = Model::new();
    assert!(matches!(
        EmbeddedLog::open(model.dir.path(), SMALL),
        Err(LogError::Fatal(_))
    ));
}

#[test]
fn a_position_past_the_end_refuses_to_open() {
    let mut model = Model::new();
    model.log().reader("r").unwrap().commit(&[(0, 3)]).unwrap();
    model.log = None;
    let error = EmbeddedLog::open(model.dir.path(), SMALL)
        .err()
        .expect("refused");
    assert!(
        error.to_string().contains("acknowledged records are gone"),
        "{error}"
    );
}

#[test]
fn the_incarnation_survives_a_restart_and_differs_between_logs() {
    let mut model = Model::new();
    let before = model.log().reader("r").unwrap().incarnation();
    model.reopen();
    assert_eq!(before, model.log().reader("r").unwrap().incarnation());
    assert_ne!(
        before,
        Model::new().log().reader("r").unwrap().incarnation()
    );
}
