//! The ledger against ClickHouse: what was acknowledged is stored, once, whole.
//!
//! Each request has a device id of its own, so the raw rows of a run, grouped
//! by device id, say which requests are stored and how many of their events. A
//! request that was not acknowledged may be stored (its answer was lost) or
//! not, but never by halves. Then the pre-aggregated counters must say what
//! the raw rows say.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::bodies::{Bodies, Run, Totals};
use crate::http::Client;
use crate::ledger::Acknowledged;

/// Where ClickHouse is and who asks.
#[derive(Clone, Debug, Deserialize)]
pub struct ClickHouse {
    /// Base address of its HTTP interface.
    pub url: String,
    /// Which database.
    pub database: String,
    /// User name.
    pub user: String,
    /// Password.
    pub password: String,
}

/// What the comparison found. `lost`, `duplicated` and `partial` count requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Requests in the ledger.
    pub acknowledged: u64,
    /// Acknowledged, but no event of theirs is stored.
    pub lost: u64,
    /// More events stored than sent.
    pub duplicated: u64,
    /// Some of their events stored, not all.
    pub partial: u64,
    /// Stored whole though never acknowledged: their answers were lost.
    pub unacknowledged: u64,
    /// Types of events whose raw total is not what the recorded bodies say, or
    /// whose pre-aggregated total is not that of the raw rows.
    pub miscounted: u64,
}

impl Verdict {
    /// Whether nothing is wrong.
    pub fn is_clean(&self) -> bool {
        (self.lost, self.duplicated, self.partial, self.miscounted) == (0, 0, 0, 0)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "acknowledged {}, lost {}, duplicated {}, partial {}; stored without an answer {}; \
             types whose counters differ from the raw rows {}",
            self.acknowledged,
            self.lost,
            self.duplicated,
            self.partial,
            self.unacknowledged,
            self.miscounted
        )
    }
}

/// Compares a ledger with what is stored now.
pub async fn verify(
    clickhouse: &ClickHouse,
    ledger: &Acknowledged,
    bodies: &Bodies,
) -> Result<Verdict, Error> {
    let mut verdict = Verdict::default();
    for (run, acknowledged) in ledger {
        let stored = clickhouse.stored(*run).await?;
        judge(acknowledged, &stored, bodies, &mut verdict);
        let totals = clickhouse.totals(*run).await?;
        verdict.miscounted += miscounted(&expected(stored.keys(), bodies), &totals);
    }
    verdict.miscounted += clickhouse.miscounted().await?;
    Ok(verdict)
}

/// What the recorded bodies say that these requests add up to, by type.
fn expected<'a>(requests: impl Iterator<Item = &'a u64>, bodies: &Bodies) -> Totals {
    let mut totals = Totals::new();
    for (kind, count) in requests.flat_map(|number| bodies.counts(*number)) {
        *totals.entry(kind.clone()).or_default() += count;
    }
    totals
}

/// Types whose totals differ.
fn miscounted(expected: &Totals, stored: &Totals) -> u64 {
    let kinds: BTreeSet<&String> = expected.keys().chain(stored.keys()).collect();
    let differs = |kind: &&&String| expected.get(**kind) != stored.get(**kind);
    kinds.iter().filter(differs).count() as u64
}

/// Adds one run's requests to a verdict. `stored` is the number of events by request.
fn judge(
    acknowledged: &BTreeSet<u64>,
    stored: &BTreeMap<u64, u32>,
    bodies: &Bodies,
    verdict: &mut Verdict,
) {
    verdict.acknowledged += acknowledged.len() as u64;
    let is_lost = |number: &&u64| bodies.events(**number) > 0 && !stored.contains_key(*number);
    verdict.lost += acknowledged.iter().filter(is_lost).count() as u64;
    for (number, events) in stored {
        match events.cmp(&bodies.events(*number)) {
            std::cmp::Ordering::Less => verdict.partial += 1,
            std::cmp::Ordering::Greater => verdict.duplicated += 1,
            std::cmp::Ordering::Equal if !acknowledged.contains(number) => {
                verdict.unacknowledged += 1;
            }
            std::cmp::Ordering::Equal => {}
        }
    }
}

impl ClickHouse {
    /// Stored events of a run, by request.
    async fn stored(&self, run: Run) -> Result<BTreeMap<u64, u32>, Error> {
        let sql = format!(
            "SELECT device_id, count() FROM health_events WHERE startsWith(device_id, '{}') \
             GROUP BY device_id FORMAT TabSeparated",
            run.prefix()
        );
        let rows = self.query(&sql).await?;
        let parse = |row: &str| {
            let (device_id, events) = row.split_once('\t')?;
            Some((run.number_of(device_id)?, events.parse().ok()?))
        };
        Ok(rows.lines().filter_map(parse).collect())
    }

    /// Sum of the counts of a run's events, by type.
    async fn totals(&self, run: Run) -> Result<Totals, Error> {
        let sql = format!(
            "SELECT type, sum(count) FROM health_events WHERE startsWith(device_id, '{}') \
             GROUP BY type FORMAT TabSeparated",
            run.prefix()
        );
        let rows = self.query(&sql).await?;
        let parse = |row: &str| {
            let (kind, total) = row.split_once('\t')?;
            Some((kind.to_owned(), total.parse().ok()?))
        };
        Ok(rows.lines().filter_map(parse).collect())
    }

    /// How many types of events are counted otherwise in `device_hours` than in the raw rows.
    async fn miscounted(&self) -> Result<u64, Error> {
        let raw = "SELECT sumIf(count, type = 'app_launch'), sumIf(count, type = 'js_error'), \
                   sumIf(count, type = 'crash'), sumIf(count, type = 'custom') FROM health_events";
        let counted =
            "SELECT sum(launches), sum(js_errors), sum(crashes), sum(customs) FROM device_hours";
        let (raw, counted) = (self.query(raw).await?, self.query(counted).await?);
        let differ = raw
            .split_whitespace()
            .zip(counted.split_whitespace())
            .filter(|(a, b)| a != b);
        Ok(differ.count() as u64)
    }

    /// Runs a query; its result as tab-separated text.
    pub async fn query(&self, sql: &str) -> Result<String, Error> {
        let request = Request::post(format!("{}/?database={}", self.url, self.database))
            .header("X-ClickHouse-User", &self.user)
            .header("X-ClickHouse-Key", &self.password)
            .body(Full::new(Bytes::from(sql.to_owned())))?;
        let answer = Client::default().send(request).await?;
        if answer.status.is_success() {
            return Ok(answer.text());
        }
        Err(format!("ClickHouse answered {}: {}", answer.status, answer.text()).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(acknowledged: &[u64], stored: &[(u64, u32)]) -> Verdict {
        let mut verdict = Verdict::default();
        let (acknowledged, stored) = (
            acknowledged.iter().copied().collect(),
            stored.iter().copied().collect(),
        );
        judge(&acknowledged, &stored, &Bodies::recorded("p"), &mut verdict);
        verdict
    }

    /// The first recorded body with two events, and the first with one.
    fn with_events(events: u32) -> u64 {
        let bodies = Bodies::recorded("p");
        (0..458).find(|n| bodies.events(*n) == events).unwrap()
    }

    #[test]
    fn stored_once_and_whole_is_clean() {
        let n = with_events(2);
        let verdict = verdict(&[n], &[(n, 2)]);
        assert!(verdict.is_clean() && verdict.acknowledged == 1);
    }

    #[test]
    fn totals_are_held_against_the_recorded_bodies() {
        let bodies = Bodies::recorded("p");
        let all: Vec<u64> = (0..458).collect();
        let right = expected(all.iter(), &bodies);
        assert_eq!(miscounted(&right, &right), 0);
        let mut wrong = right.clone();
        *wrong.get_mut("crash").unwrap() += 1;
        wrong.remove("custom");
        wrong.insert("other".to_owned(), 1);
        assert_eq!(miscounted(&right, &wrong), 3);
    }

    #[test]
    fn each_fault_is_told_from_the_others() {
        let n = with_events(2);
        assert_eq!(verdict(&[n], &[]).lost, 1);
        assert_eq!(verdict(&[n], &[(n, 1)]).partial, 1);
        assert_eq!(verdict(&[n], &[(n, 4)]).duplicated, 1);
        assert_eq!(
            verdict(&[], &[(n, 2)]),
            Verdict {
                unacknowledged: 1,
                ..Verdict::default()
            }
        );
        assert_eq!(
            verdict(&[], &[(n, 1)]).partial,
            1,
            "also where nothing was promised"
        );
    }
}
