//! The embedded log conforms.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use sluice_eventlog::embedded::{EmbeddedConfig, EmbeddedLog};
use sluice_eventlog::{AppendError, EventLog};
use support::*;

const SMALL: EmbeddedConfig = EmbeddedConfig {
    segment_bytes: 2_000,
    max_bytes: 20_000,
    reserve_bytes: 0,
};

#[test]
fn the_embedded_log_conforms() {
    let dir = tempfile::tempdir().unwrap();
    conforms(&|_: &str| -> Box<dyn EventLog> {
        Box::new(EmbeddedLog::open(dir.path(), SMALL).unwrap())
    });
}

#[test]
fn a_full_log_is_busy() {
    let dir = tempfile::tempdir().unwrap();
    let log = EmbeddedLog::open(dir.path(), SMALL).unwrap();
    let mut fates = (0..200).map(|_| append(&log, 0, frame_of(200).1));
    assert!(fates.any(|fate| matches!(fate, Err(AppendError::Busy { .. }))));
}

#[test]
fn a_reader_that_was_overtaken_is_told_of_the_gap() {
    let dir = tempfile::tempdir().unwrap();
    let log = EmbeddedLog::open(dir.path(), SMALL).unwrap();
    let mut slow = log.reader("slow").unwrap();
    let mut seen = Seen::default();
    seen.poll(&mut *slow);
    fill(&log, 40);
    let mut fast = log.reader("fast").unwrap();
    let read = read(&mut *fast, 40);
    fast.commit(&read.next()).unwrap();
    log.trim(0, 40).unwrap();
    seen.until("the gap", &mut *slow, |seen| !seen.gaps.is_empty());
    let (partition, from, to) = seen.gaps[0];
    assert_eq!((partition, from), (0, 0));
    seen.until("the rest", &mut *slow, |seen| {
        seen.count() as u64 == 40 - to
    });
}
