//! Folded tables against the definition of the metrics: random histories
//! through log, aggregator and folder, with folds that end at any statement,
//! two folders, and rows that come late.

#![allow(clippy::unwrap_used, reason = "helpers of a test")]

mod support;

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use clickhouse::{Client, Row};
use serde::Deserialize;
use sluice_aggregator::GROUP;
use sluice_aggregator::fold::store::FoldStore;
use sluice_aggregator::fold::{Folder, Next};
use sluice_aggregator::store::Store;
use sluice_eventlog::EventLog as _;
use sluice_schema::clickhouse::folds::{self, HourKind};
use sluice_schema::clickhouse::ledger::{
    CLOCK_SKEW_US, DAY_S, DayVersions, HOUR_S, HourVersions, Ledger,
};
use sluice_schema::clickhouse::places;
use sluice_schema::frame::{ProjectRef, mark_replay};
use sluice_schema::id::FrameId;
use support::history::{self, PROJECTS, Random, UPDATES};
use support::oracle::{DeviceHour, DeviceHours, Metrics, RawRow, Slice, day_of, dictionary, raw};
use support::*;

const HOUR_US: i64 = HOUR_S as i64 * 1_000_000;
const HOURS: u32 = 30;
const ALL: std::ops::Range<u32> = 0..u32::MAX;
const DAYS: std::ops::Range<u32> = 20_000 * DAY_S..24_000 * DAY_S;

async fn ledger(client: &Client) -> Ledger {
    let store = FoldStore::new(client.clone());
    store.ledger(now_us() as u64).await.unwrap()
}

#[derive(Row, Deserialize)]
struct Percentiles {
    at: u32,
    sample_count: u64,
    quantiles: Vec<f64>,
}

/// A table, its column of time, and the versions to be read of it.
type Part<'a> = (&'a str, &'a str, &'a [u64]);

/// A read of folded tables.
struct Read<'a> {
    parts: &'a [Part<'a>],
    /// SQL of the slot's start, over `t`.
    start: &'a str,
    dimensions: &'a [&'a str],
    flags: bool,
    /// Whether the tables have K, and UJ with UC.
    has: (bool, bool),
}

#[derive(Row, Deserialize)]
struct ReadRow {
    slice: Vec<String>,
    sums: Vec<u64>,
    devices: Vec<u64>,
}

impl Read<'_> {
    fn sql(&self) -> String {
        let mut columns = vec!["L", "J", "C", "S", "E", "EJ", "EC", "H"];
        let mut states = if self.flags {
            vec!["D", "DE"]
        } else {
            vec!["U", "UE"]
        };
        if self.has.0 {
            columns.push("K");
        }
        if self.has.1 {
            states.extend(["UJ", "UC"]);
        }
        let mut plain = self.dimensions.to_vec();
        plain.extend(columns.iter().chain(&states));
        if self.flags {
            plain.push("flag_map");
        }
        let parts = self.parts.iter().filter(|part| !part.2.is_empty());
        let parts = parts.map(|(table, time, vers)| {
            format!(
                "SELECT project_id, {time} AS t, {} FROM {table} WHERE ver IN {vers:?}",
                plain.join(", ")
            )
        });
        let mut from = parts.collect::<Vec<_>>().join(" UNION ALL ");
        let mut slice = vec![
            "toString(project_id)".to_owned(),
            format!("toString({})", self.start),
        ];
        slice.extend(
            self.dimensions
                .iter()
                .map(|name| format!("toString({name})")),
        );
        if self.flags {
            slice.extend(["toString(flag.1)".to_owned(), "toString(flag.2)".to_owned()]);
            from = format!(
                "SELECT x.*, arrayJoin(f.flags) AS flag FROM ({from}) AS x INNER JOIN \
                 (SELECT project_id AS p, flag_map AS m, any(flags) AS flags FROM flag_maps GROUP BY p, m) AS f \
                 ON x.project_id = f.p AND x.flag_map = f.m"
            );
        }
        let sums: Vec<_> = columns.iter().map(|name| format!("sum({name})")).collect();
        let states = states.iter().map(|name| {
            if self.flags {
                format!("uniqExactArray({name})")
            } else {
                format!("uniqCombined64Merge(16)({name})")
            }
        });
        format!(
            "SELECT [{}] AS slice, [{}] AS sums, [{}] AS devices FROM ({from}) GROUP BY slice",
            slice.join(", "),
            sums.join(", "),
            states.collect::<Vec<_>>().join(", ")
        )
    }

    async fn rows(&self, client: &Client) -> BTreeMap<Slice, Metrics> {
        let rows = client
            .query(&self.sql())
            .fetch_all::<ReadRow>()
            .await
            .unwrap();
        let number = |stored: &u64| {
            if self.flags {
                places::devices(*stored)
            } else {
                *stored
            }
        };
        rows.into_iter()
            .map(|row| {
                let devices: Vec<u64> = row.devices.iter().map(number).collect();
                (row.slice, metrics(&row.sums, &devices))
            })
            .collect()
    }

    async fn is(&self, client: &Client, mut expected: BTreeMap<Slice, Metrics>, what: &str) {
        for metrics in expected.values_mut() {
            if !self.has.0 {
                metrics.sums[8] = 0;
            }
            if !self.has.1 {
                metrics.devices[2..].fill(0);
            }
        }
        let found = self.rows(client).await;
        assert!(!expected.is_empty(), "{what}: nothing to compare");
        same(&found, &expected, what);
    }
}

fn metrics(sums: &[u64], devices: &[u64]) -> Metrics {
    let mut metrics = Metrics::default();
    metrics.sums[..sums.len()].copy_from_slice(sums);
    metrics.devices[..devices.len()].copy_from_slice(devices);
    metrics
}

/// Sums are exact, and so are these few devices.
fn same(found: &BTreeMap<Slice, Metrics>, expected: &BTreeMap<Slice, Metrics>, what: &str) {
    for (slice, metrics) in expected {
        assert_eq!(found.get(slice), Some(metrics), "{what}: {slice:?}");
    }
    let more: Vec<_> = found
        .keys()
        .filter(|slice| !expected.contains_key(*slice))
        .collect();
    assert!(more.is_empty(), "{what}: {more:?}");
}

fn slice(device_hour: &DeviceHour, start: u32, by_update: bool) -> Slice {
    let mut slice = vec![
        device_hour.project.to_string(),
        start.to_string(),
        device_hour.channel.clone(),
        device_hour.platform.clone(),
        device_hour.runtime.clone(),
    ];
    if by_update {
        slice.push(device_hour.update.clone());
    }
    slice
}

const WIDE: [&str; 3] = ["channel", "platform", "runtime_version"];
const BY_UPDATE: [&str; 4] = ["channel", "platform", "runtime_version", "update_uuid"];

/// Every read by the hour and by the day equals its definition over `rows`.
async fn all_equals(client: &Client, rows: &[RawRow], what: &str) {
    let (ledger, dictionary) = (ledger(client).await, dictionary(client).await);
    let expected = DeviceHours::of(rows);
    let HourVersions { hours, now } = ledger.hours(ALL);
    let start = "toUnixTimestamp(t)";
    let wide = [("hourly", "hour", &*hours), ("hourly_now", "hour", &*now)];
    let read = Read {
        parts: &wide,
        start,
        dimensions: &BY_UPDATE,
        flags: false,
        has: (true, true),
    };
    let by_hour = expected.metrics(|d| slice(d, d.hour, true));
    read.is(client, by_hour, &format!("{what}: hours")).await;

    for (dimensions, closed, by_update) in [
        (&WIDE[..], "hourly_flags", false),
        (&BY_UPDATE[..], "hourly_maps", true),
    ] {
        let parts = [
            (closed, "hour", &*hours),
            ("hourly_maps_now", "hour", &*now),
        ];
        let read = Read {
            parts: &parts,
            start,
            dimensions,
            flags: true,
            has: (false, false),
        };
        let slices = expected.flag_metrics(&dictionary, |d| slice(d, d.hour, by_update));
        read.is(client, slices, &format!("{what}: {closed}")).await;
    }
    days_equal(client, &ledger, &expected, what).await;
}

async fn days_equal(client: &Client, ledger: &Ledger, expected: &DeviceHours, what: &str) {
    let dictionary = dictionary(client).await;
    let DayVersions { days, hours, now } = ledger.days(DAYS);
    let start = "toUnixTimestamp(toStartOfDay(t))";
    let parts = [
        ("daily", "day", &*days),
        ("hourly", "hour", &*hours),
        ("hourly_now", "hour", &*now),
    ];
    let read = Read {
        parts: &parts,
        start,
        dimensions: &WIDE[..2],
        flags: false,
        has: (true, false),
    };
    let by_day = expected.metrics(|d| slice(d, day_of(d.hour), false)[..4].to_vec());
    read.is(client, by_day, &format!("{what}: days")).await;

    for (dimensions, day, hour, by_update) in [
        (&WIDE[..], "daily_flags", "hourly_flags", false),
        (&BY_UPDATE[..], "daily_maps", "hourly_maps", true),
    ] {
        let parts = [
            (day, "day", &*days),
            (hour, "hour", &*hours),
            ("hourly_maps_now", "hour", &*now),
        ];
        let read = Read {
            parts: &parts,
            start,
            dimensions,
            flags: true,
            has: (false, false),
        };
        let slices = expected.flag_metrics(&dictionary, |d| slice(d, day_of(d.hour), by_update));
        read.is(client, slices, &format!("{what}: {day}")).await;
    }
}

/// The gate's numbers from an exact moment equal their definition.
async fn gate_equals(client: &Client, rows: &[RawRow], from_us: i64, now_us: i64, what: &str) {
    let updates: Vec<String> = UPDATES[..3]
        .iter()
        .map(|update| update.to_lowercase())
        .collect();
    let seconds = |us: i64| (us / 1_000_000) as u32;
    let read = ledger(client)
        .await
        .live(seconds(from_us) + 1..seconds(now_us), seconds(now_us));
    let sums = ["L", "J", "C", "S", "E", "EJ", "EC", "H"].map(|name| format!("sum({name})"));
    let devices = ["U", "UE", "UJ", "UC"].map(|name| format!("uniqCombined64Merge(16)({name})"));
    for project in PROJECTS {
        let sql = format!(
            "SELECT ['{project}'] AS slice, [{}] AS sums, [{}] AS devices FROM ({})",
            sums.join(", "),
            devices.join(", "),
            folds::gate_rows()
        );
        let query = client
            .query_raw(&sql)
            .with_setting("prefer_column_name_to_alias", "1");
        let query = query
            .param("p", project)
            .param("updates", &updates)
            .param("from_us", from_us);
        let query = query.param("vers", &read.hours).param("live", &read.live);
        let found: ReadRow = query.fetch_one().await.unwrap();
        let found = BTreeMap::from([(found.slice, metrics(&found.sums, &found.devices))]);

        let cohort = rows.iter().filter(|row| {
            row.project == project as u64
                && row.received_us >= from_us
                && updates.contains(&row.update.to_lowercase())
        });
        let mut expected = DeviceHours::of(cohort).metrics(|d| vec![d.project.to_string()]);
        for metrics in expected.values_mut() {
            metrics.sums[8] = 0;
        }
        same(&found, &expected, &format!("{what}: gate"));
    }
}

/// Lets a folder do all that is due at a moment.
async fn settle(folder: &mut Folder, at_us: i64) {
    for _ in 0..1_000 {
        if let Next::Wait { .. } = folder.step(at_us as u64).await.unwrap() {
            return;
        }
    }
    panic!("never done");
}

/// What a folder leaves behind that dies before each of its statements.
async fn die_at_each_statement(client: &Client, hour: u32, at_us: u64) {
    let mut ver = at_us - 7_000_000;
    let day = hour / DAY_S * DAY_S;
    let fold = folds::fold_hour(HourKind::Closed);
    for (slot, statements) in [(hour, fold), (day, folds::fold_day())] {
        for upto in 1..=statements.len() {
            ver += 1;
            for statement in &statements[..upto] {
                let query = client
                    .query_raw(statement)
                    .param("h", slot)
                    .param("ver", ver);
                let query = query.param("vers", ledger(client).await.hours(ALL).hours);
                query
                    .with_setting("prefer_column_name_to_alias", "1")
                    .execute()
                    .await
                    .unwrap();
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[allow(clippy::too_many_lines, reason = "one history, told in order")]
async fn what_is_folded_is_what_the_metrics_say() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(&dir.path().join("clickhouse"));
    let client = migrated(&server).await;
    let logs = open_logs(&dir);
    let source = format!(
        "health@{}",
        logs.health.reader(GROUP).unwrap().incarnation()
    );
    let folder = || Folder::new(FoldStore::new(client.clone()), source.clone(), 1);
    let store = Store::new(client.clone(), "health_events");
    let random = &mut Random(20_261_127);

    let begun_us = now_us();
    let this_hour_us = begun_us / HOUR_US * HOUR_US;
    let hour_us = |ago: u32| this_hour_us - i64::from(ago) * HOUR_US;
    let hour_s = |ago: u32| (hour_us(ago) / 1_000_000) as u32;
    let mut frames = Vec::new();
    for ago in (0..=HOURS).rev() {
        let until_us = (hour_us(ago) + HOUR_US).min(begun_us);
        frames.extend(history::hour(random, hour_us(ago), until_us, 16));
    }
    let project = ProjectRef::Id(PROJECT);
    for from in [0, 600] {
        let wide = [history::over_cap(from)];
        frames.push(frame_of(FrameId::new(), &project, hour_us(2) + 5, &wide));
    }
    for frame in &frames {
        append(&logs.health, frame.clone());
    }
    let mut running = start(&logs, &client, &[]);
    running.caught_up().await;
    running.stop().await;
    let rows = raw(&client).await;
    let overflow = rows
        .iter()
        .filter(|row| row.flag_map == folds::OVERFLOW_MAP);
    assert!(overflow.count() >= 200, "more maps than an hour takes");
    let from_us = hour_us(7) + HOUR_US / 3;

    // While nothing can be closed.
    gate_equals(&client, &rows, from_us, begun_us, "not folded").await;
    let mut first = folder();
    settle(&mut first, begun_us).await;
    assert!(!ledger(&client).await.hours(ALL).now.is_empty());
    all_equals(&client, &rows, "open").await;

    // Hours are closed, by folders that die, and by two at once.
    // Past all that the aggregators do here by the clock on the wall.
    let at_us = now_us() + 20 * CLOCK_SKEW_US as i64;
    store.put_watermarks(&source, &[(0, at_us)]).await.unwrap();
    die_at_each_statement(&client, hour_s(3), at_us as u64).await;
    for ms in (1..60).step_by(4) {
        let step = first.step(at_us as u64);
        drop(tokio::time::timeout(Duration::from_millis(ms), step).await);
    }
    all_equals(&client, &rows, "closing").await;
    gate_equals(&client, &rows, from_us, begun_us, "closing").await;
    let mut second = folder();
    tokio::join!(settle(&mut first, at_us), settle(&mut second, at_us));
    die_at_each_statement(&client, hour_s(3), at_us as u64 - 1_000_000).await;
    let closed = ledger(&client).await;
    assert!((1..=HOURS).all(|ago| ago == 0 || closed.hour(hour_s(ago)).is_some()));
    assert!(!closed.days(DAYS).days.is_empty());
    all_equals(&client, &rows, "closed").await;
    gate_equals(&client, &rows, from_us, begun_us, "closed").await;
    let until = "SELECT toUInt64(toUnixTimestamp64Micro(max(watermark))) FROM folded_until";
    assert_eq!(number(&client, until).await, at_us as u64);

    // Rows come late, and frames a second time.
    let late = [3, 20];
    for ago in late {
        for frame in history::hour(random, hour_us(ago), hour_us(ago) + HOUR_US, 24) {
            append(&logs.health, frame);
        }
    }
    for frame in frames.iter().step_by(9) {
        append(&logs.health, mark_replay(frame).unwrap());
    }
    let mut running = start(&logs, &client, &[]);
    running.caught_up().await;
    running.stop().await;
    all_equals(&client, &rows, "late rows are not half there").await;
    let late_us = at_us + 2_000_000;
    let late_hours: Vec<u32> = late.iter().map(|ago| hour_s(*ago) / HOUR_S).collect();
    store.mark_late(&late_hours, late_us).await.unwrap();
    let (before, rows) = (rows.len(), raw(&client).await);
    assert!(rows.len() > before);
    gate_equals(&client, &rows, from_us, begun_us, "late").await;
    settle(&mut second, late_us + CLOCK_SKEW_US as i64).await;
    all_equals(&client, &rows, "late").await;
    gate_equals(&client, &rows, from_us, begun_us, "late, folded").await;

    // What nobody can read any more goes, and nothing else.
    let versions = "SELECT uniqExact(ver) FROM hourly";
    let dirty = number(&client, versions).await;
    settle(&mut second, late_us + 3 * HOUR_US).await;
    let clean = number(&client, versions).await;
    let hours: HashSet<u64> = ledger(&client).await.hours(ALL).hours.into_iter().collect();
    assert!(
        clean < dirty && clean == hours.len() as u64,
        "{dirty} {clean}"
    );
    all_equals(&client, &rows, "swept").await;
}

/// Percentiles by linear interpolation.
fn exact(sorted: &[f64], q: f64) -> f64 {
    let rank = q * (sorted.len() - 1) as f64;
    let (low, part) = (rank.floor() as usize, rank.fract());
    let high = (low + 1).min(sorted.len() - 1);
    sorted[low] + part * (sorted[high] - sorted[low])
}

/// How far `value` is from the rank `q`, as a share of all.
fn rank_error(sorted: &[f64], q: f64, value: f64) -> f64 {
    let n = sorted.len() as f64;
    let below = sorted.partition_point(|x| *x < value) as f64 / n;
    let upto = sorted.partition_point(|x| *x <= value) as f64 / n;
    (below - q).max(q - upto).max(0.0)
}

fn samples(runtime: u64, durations: &[f64]) -> Vec<u8> {
    let event = |ms| serde_json::json!({"type": "perf_sample", "name": "start", "tags": {"duration_ms": ms}});
    let events: Vec<_> = durations.iter().map(event).collect();
    let body = serde_json::json!({
        "projectSlug": "my-app", "deviceId": "d", "platform": "ios",
        "runtimeVersion": runtime.to_string(), "events": events,
    });
    body.to_string().into_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn percentiles_are_exact_up_to_a_thousand_samples_and_close_beyond() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(&dir.path().join("clickhouse"));
    let client = migrated(&server).await;
    let logs = open_logs(&dir);
    let random = &mut Random(3);
    let project = ProjectRef::Id(PROJECT);
    let base_us = now_us() / HOUR_US * HOUR_US - 9 * HOUR_US;
    let mut expected: BTreeMap<u32, Vec<f64>> = BTreeMap::new();
    for (hour, total) in (0..).zip([1, 2, 999, 1_000, 1_001, 12_000]) {
        let at_us = base_us + i64::from(hour) * HOUR_US;
        // Skewed, and rising within the hour.
        let all: Vec<f64> = (0..total)
            .map(|n| f64::from(n) / 16.0 + 1e6 / (1 + random.below(3_000)) as f64)
            .collect();
        for part in all.chunks(100) {
            let body = samples(random.below(4), part);
            append(
                &logs.health,
                frame_of(FrameId::new(), &project, at_us, &[body]),
            );
        }
        expected.insert((at_us / 1_000_000) as u32, all);
    }
    let limits = sluice_aggregator::batch::BatchLimits {
        max_rows: 500,
        ..sluice_aggregator::batch::BatchLimits::default()
    };
    let mut running = start_with(&logs, &client, &[], limits);
    running.caught_up().await;
    running.stop().await;
    for merge in ["", "OPTIMIZE TABLE perf_hours FINAL"] {
        if !merge.is_empty() {
            client.query(merge).execute().await.unwrap();
        }
        let sql = format!(
            "SELECT toUnixTimestamp(hour) AS at, {} FROM perf_hours \
             WHERE project_id = {PROJECT} AND metric = 'start' GROUP BY hour ORDER BY hour",
            folds::PERCENTILES,
            PROJECT = PROJECT.0
        );
        let rows = client.query(&sql).fetch_all::<Percentiles>().await.unwrap();
        assert_eq!(rows.len(), expected.len());
        for row in rows {
            let Percentiles {
                at,
                sample_count: n,
                quantiles,
            } = row;
            let mut all = expected[&at].clone();
            all.sort_by(f64::total_cmp);
            assert_eq!(n, all.len() as u64);
            for (q, found) in [0.5, 0.95, 0.99].into_iter().zip(quantiles) {
                if n <= 1_000 {
                    let exact = exact(&all, q);
                    assert!(
                        (found - exact).abs() <= exact * 1e-12,
                        "{n}: {found}, not {exact}"
                    );
                } else {
                    assert!(rank_error(&all, q, found) <= 0.01, "{n}: p{q} is {found}");
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_aggregator_folds_what_it_stores() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(&dir.path().join("clickhouse"));
    let client = migrated(&server).await;
    let logs = open_logs(&dir);
    let running = start(&logs, &client, &[]);
    for n in 1..=3_u64 {
        let received_us = now_us() as u64;
        append(
            &logs.health,
            frame(FrameId::new(), &[launch(&format!("d{n}"))]),
        );
        eventually("the launch is counted in the open hour", async || {
            let now = ledger(&client).await.hours(ALL).now;
            let sql = format!("SELECT sum(L) FROM hourly_now WHERE ver IN {now:?}");
            !now.is_empty() && number(&client, &sql).await == n
        })
        .await;
        eventually("and that is said", async || {
            let until = "SELECT toUInt64(toUnixTimestamp64Micro(max(watermark))) FROM folded_until";
            number(&client, until).await >= received_us
        })
        .await;
    }
    running.stop().await;
}
