//! Which versions nobody can read any more: pure.
//!
//! What always holds: the version that a reader's ledger may name is kept, also
//! when that ledger is as old as [`KEPT_FOR_US`], and so is what an attempt
//! under way has written.
//!
//! [`KEPT_FOR_US`]: sluice_schema::clickhouse::ledger::KEPT_FOR_US

use std::collections::{BTreeMap, BTreeSet};

use clickhouse::Row;
use serde::Deserialize;
use sluice_schema::clickhouse::ledger::{Kind, Ledger};

/// An attempt that began so long ago is committed or given up, and if it is
/// committed, readers know: well above the time-outs of its statements.
const SETTLED_US: u64 = 2 * 3_600_000_000;

/// A version that a table or the ledger holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Row, Deserialize)]
pub struct Version {
    /// Its hour or day, in seconds since 1970.
    pub slot: u32,
    /// Which.
    pub ver: u64,
}

/// A fold of an open hour in the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Row, Deserialize)]
pub struct OpenFold {
    /// Its hour, in seconds since 1970.
    pub slot: u32,
    /// Its version.
    pub ver: u64,
    /// Whether every reader knows of it by now.
    pub known: bool,
}

/// Whether a version of a closed hour or a day can go: a newer one was
/// committed a while ago, or it was never committed and never will be.
pub fn is_gone(ledger: &Ledger, at_us: u64, kind: Kind, version: Version) -> bool {
    let newest = match kind {
        Kind::Hour => ledger.hour(version.slot),
        Kind::Day => ledger.day(version.slot),
        Kind::Now | Kind::Late => return false,
    };
    match newest {
        Some(newest) if version.ver == newest.ver => false,
        Some(newest) if version.ver < newest.ver => newest.ver + SETTLED_US < at_us,
        _ => version.ver + SETTLED_US < at_us,
    }
}

/// The versions of open hours that can go, of those that the tables and the
/// ledger have.
pub fn open_gone(
    ledger: &Ledger,
    at_us: u64,
    stored: &BTreeSet<u64>,
    committed: &[OpenFold],
) -> BTreeSet<u64> {
    let mut newest_known: BTreeMap<u32, u64> = BTreeMap::new();
    for fold in committed.iter().filter(|fold| fold.known) {
        let newest = newest_known.entry(fold.slot).or_default();
        *newest = fold.ver.max(*newest);
    }
    let superseded = |fold: &&OpenFold| {
        let closed = ledger.hour(fold.slot);
        closed.is_some_and(|closed| closed.ver + SETTLED_US < at_us)
            || newest_known
                .get(&fold.slot)
                .is_some_and(|newest| fold.ver < *newest)
    };
    let mut gone: BTreeSet<u64> = committed
        .iter()
        .filter(superseded)
        .map(|fold| fold.ver)
        .collect();
    let known: BTreeSet<u64> = committed.iter().map(|fold| fold.ver).collect();
    let dead = stored
        .difference(&known)
        .filter(|ver| **ver + SETTLED_US < at_us);
    gone.extend(dead);
    gone
}

#[cfg(test)]
mod tests {
    use sluice_schema::clickhouse::ledger::{Fold, HOUR_S};

    use super::*;

    const NOW: u64 = 100 * SETTLED_US;
    const OLD: u64 = NOW - SETTLED_US - 1;

    fn ledger(kind: Kind, slot: u32, ver: u64) -> Ledger {
        let mut ledger = Ledger::default();
        ledger.add(kind, slot, Fold { ver, parts: vec![] });
        ledger
    }

    fn gone(newest: u64, ver: u64) -> bool {
        let ledger = ledger(Kind::Day, 0, newest);
        is_gone(&ledger, NOW, Kind::Day, Version { slot: 0, ver })
    }

    #[test]
    fn a_version_goes_a_while_after_a_newer_one_or_when_its_attempt_is_over() {
        assert!(!gone(OLD, OLD), "the newest stays");
        assert!(gone(OLD, OLD - 1), "superseded long ago");
        assert!(!gone(OLD + 1, OLD), "readers may not know the newer one");
        assert!(!gone(OLD, OLD + 1), "may yet be committed");
        assert!(gone(OLD - 2, OLD - 1), "will never be committed");
        let none = Ledger::default();
        let version = Version { slot: 0, ver: OLD };
        assert!(is_gone(&none, NOW, Kind::Hour, version), "nor will this");
    }

    #[test]
    fn an_open_hour_keeps_what_readers_may_name() {
        let fold = |ver, known| OpenFold {
            slot: HOUR_S,
            ver,
            known,
        };
        let committed = [fold(1, true), fold(2, true), fold(3, false)];
        let stored = BTreeSet::from([1, 2, 3, OLD, OLD + 1]);
        let none = Ledger::default();
        let gone = open_gone(&none, NOW, &stored, &committed);
        assert_eq!(
            gone,
            BTreeSet::from([1, OLD]),
            "2 is named until 3 is known"
        );
        let closed = ledger(Kind::Hour, HOUR_S, OLD);
        let gone = open_gone(&closed, NOW, &stored, &committed);
        assert_eq!(gone, BTreeSet::from([1, 2, 3, OLD]));
        let closed = ledger(Kind::Hour, HOUR_S, OLD + 1);
        let gone = open_gone(&closed, NOW, &stored, &committed);
        assert_eq!(gone, BTreeSet::from([1, OLD]), "readers may not know of it");
    }
}
