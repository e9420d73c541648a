//! The statements that define the metrics (telemetry.md §4.1): folds of hours
//! and days, the live read of the gate, percentiles.
//!
//! All of them take query parameters (`param_h=…`) and want
//! [`SETTINGS`]. What always holds: L, J, C, S, E, EJ, EC, H and K are exact; a
//! statement writes under the version `ver` alone, which nobody reads before
//! its row is in the ledger, so an attempt that was cut short is left behind
//! and another one begun. A statement must not be sent twice under one version.

use super::places::PLACE;

/// Settings that every statement here needs to mean what it says: without the
/// first, `SELECT x AS hour … WHERE hour = …` compares `x` with itself.
pub const SETTINGS: [(&str, &str); 1] = [("prefer_column_name_to_alias", "1")];

/// The id of what is over the cap of flag maps: in no flag slice.
pub const OVERFLOW_MAP: u64 = u64::MAX;

/// One device-hour, grouped from rows of `device_hours`: l, j, c and its
/// sessions s.
const DEVICE_HOUR: &str = "sum(launches) AS l, sum(js_errors) AS j, sum(crashes) AS c, \
     least(greatest(l, 1), 10000) AS s";

/// Sums over device-hours.
const SUMS: &str = "sum(l) AS L, sum(j) AS J, sum(c) AS C, sum(s) AS S, sum(least(j + c, s)) AS E, \
     sum(least(j, s)) AS EJ, sum(least(c, s)) AS EC, count() AS H";

/// Sums over folded rows.
const MERGED_SUMS: &str = "sum(L), sum(J), sum(C), sum(S), sum(E), sum(EJ), sum(EC), sum(H)";

/// The dimensions of a slice of the hour `h`. Grouping by its number alone
/// keeps texts out of the large hash table.
const SLICES: &str = "(SELECT slice, any(project_id) AS project_id, any(update_uuid) AS update_uuid, \
     any(channel) AS channel, any(platform) AS platform, any(runtime_version) AS runtime_version \
     FROM device_hours WHERE hour = {h:DateTime('UTC')} GROUP BY slice)";

/// Distinct devices: all, with an error of either kind, with a JS error, with a crash.
fn devices() -> String {
    let of = [
        ("", "U"),
        (" AND j + c > 0", "UE"),
        (" AND j > 0", "UJ"),
        (" AND c > 0", "UC"),
    ];
    let states = of
        .map(|(of, name)| format!("uniqCombined64StateIf(16)(device, device != 0{of}) AS {name}"));
    states.join(", ")
}

/// Places of devices: of all, and of those with an error of either kind. In
/// order, which takes less to store.
fn places() -> String {
    let of = [("", "D"), (" AND j + c > 0", "DE")];
    let sets = of.map(|(of, name)| {
        format!("arraySort(groupUniqArrayIf({PLACE}, device != 0{of})) AS {name}")
    });
    sets.join(", ")
}

/// Sets of places, put together.
const MERGED_PLACES: &str = "arraySort(groupUniqArrayArray(D)), arraySort(groupUniqArrayArray(DE))";

/// Whether an hour is folded for good or as it is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HourKind {
    /// Into `hourly`, `hourly_maps` and `hourly_flags`.
    Closed,
    /// Into `hourly_now` and `hourly_maps_now`.
    Open,
}

/// The statements that fold the hour `h` under the version `ver`, in order.
pub fn fold_hour(kind: HourKind) -> Vec<String> {
    match kind {
        HourKind::Closed => vec![hour("hourly"), hour_maps("hourly_maps"), hour_flags()],
        HourKind::Open => vec![hour("hourly_now"), hour_maps("hourly_maps_now")],
    }
}

fn hour(into: &str) -> String {
    let devices = devices();
    format!(
        "INSERT INTO {into} (hour, ver, project_id, update_uuid, channel, platform, \
         runtime_version, L, J, C, S, E, EJ, EC, H, K, U, UE, UJ, UC) \
         SELECT {{h:DateTime('UTC')}}, {{ver:UInt64}}, project_id, update_uuid, channel, platform, \
         runtime_version, L, J, C, S, E, EJ, EC, H, K, U, UE, UJ, UC \
         FROM (SELECT slice, {SUMS}, sum(k) AS K, {devices} \
         FROM (SELECT slice, device, {DEVICE_HOUR}, sum(customs) AS k FROM device_hours \
         WHERE hour = {{h:DateTime('UTC')}} GROUP BY slice, device) GROUP BY slice) AS x \
         INNER JOIN {SLICES} AS d USING slice"
    )
}

/// Device-hours with a launch without flags are left out (Rule F), and what is
/// under no map or under the overflow map.
fn hour_maps(into: &str) -> String {
    let places = places();
    format!(
        "INSERT INTO {into} (hour, ver, project_id, update_uuid, channel, platform, \
         runtime_version, flag_map, L, J, C, S, E, EJ, EC, H, D, DE) \
         SELECT {{h:DateTime('UTC')}}, {{ver:UInt64}}, project_id, update_uuid, channel, platform, \
         runtime_version, flag_map, L, J, C, S, E, EJ, EC, H, D, DE \
         FROM (SELECT slice, flag_map, {SUMS}, {places} \
         FROM (SELECT slice, device, flag_map, {DEVICE_HOUR} FROM device_hours \
         WHERE hour = {{h:DateTime('UTC')}} AND flag_map NOT IN (0, {OVERFLOW_MAP}) \
         AND (slice, device) NOT IN (SELECT slice, device FROM device_hours \
         WHERE hour = {{h:DateTime('UTC')}} AND flag_map = 0 AND launches > 0) \
         GROUP BY slice, device, flag_map) GROUP BY slice, flag_map) AS x \
         INNER JOIN {SLICES} AS d USING slice"
    )
}

fn hour_flags() -> String {
    format!(
        "INSERT INTO hourly_flags (hour, ver, project_id, channel, platform, \
         runtime_version, flag_map, L, J, C, S, E, EJ, EC, H, D, DE) \
         SELECT {{h:DateTime('UTC')}}, {{ver:UInt64}}, project_id, channel, platform, \
         runtime_version, flag_map, {MERGED_SUMS}, {MERGED_PLACES} \
         FROM hourly_maps WHERE hour = {{h:DateTime('UTC')}} AND ver = {{ver:UInt64}} \
         GROUP BY project_id, channel, platform, runtime_version, flag_map"
    )
}

/// The statements that fold the day that begins at `h` under the version `ver`
/// from the versions `vers` of its hours, in order.
pub fn fold_day() -> Vec<String> {
    let flags = "project_id, channel, platform, runtime_version, flag_map";
    let maps = "project_id, update_uuid, channel, platform, runtime_version, flag_map";
    let states = (
        "K, U, UE",
        "sum(K), uniqCombined64MergeState(16)(U), uniqCombined64MergeState(16)(UE)",
    );
    let places = ("D, DE", MERGED_PLACES);
    vec![
        day("daily", "hourly", "project_id, channel, platform", states),
        day("daily_flags", "hourly_flags", flags, places),
        day("daily_maps", "hourly_maps", maps, places),
    ]
}

fn day(into: &str, from: &str, by: &str, (more, merged): (&str, &str)) -> String {
    format!(
        "INSERT INTO {into} (day, ver, {by}, L, J, C, S, E, EJ, EC, H, {more}) \
         SELECT {{h:DateTime('UTC')}}, {{ver:UInt64}}, {by}, {MERGED_SUMS}, {merged} \
         FROM {from} WHERE hour >= {{h:DateTime('UTC')}} \
         AND hour < {{h:DateTime('UTC')}} + INTERVAL 1 DAY AND ver IN {{vers:Array(UInt64)}} \
         GROUP BY {by}"
    )
}

/// A `SELECT` of the columns of `hourly` but for dimensions and K, unmerged, of
/// everything that is inserted: the gate, whose window begins at an exact
/// moment.
///
/// Parameters: `p` project; `updates`, lower case; `from_us`, the first moment,
/// in microseconds since 1970; and from [`Ledger::live`] of the hours that
/// **begin** at or after it: `vers`, and `live` as numbers. The hour in which
/// the window begins is read from raw. Merge over its rows: sum the sums,
/// `uniqCombined64Merge(16)` the states.
///
/// [`Ledger::live`]: super::ledger::Ledger::live
pub fn gate_rows() -> String {
    let columns = "L, J, C, S, E, EJ, EC, H, U, UE, UJ, UC";
    let devices = devices();
    let of = "project_id = {p:UInt64}";
    let first_hour = "toDateTime(intDiv({from_us:Int64} + 3599999999, 3600000000) * 3600, 'UTC')";
    format!(
        "SELECT {columns} FROM hourly WHERE {of} AND update_uuid IN {{updates:Array(String)}} \
         AND hour >= {first_hour} \
         AND ver IN {{vers:Array(UInt64)}} \
         UNION ALL SELECT {columns} FROM (SELECT {SUMS}, {devices} \
         FROM (SELECT hour, slice, device, {DEVICE_HOUR} FROM device_hours WHERE {of} \
         AND update_uuid IN {{updates:Array(String)}} AND hour IN {{live:Array(UInt32)}} \
         GROUP BY hour, slice, device)) \
         UNION ALL SELECT {columns} FROM (SELECT {SUMS}, {devices} \
         FROM (SELECT cityHash64(lowerUTF8(update_uuid), channel, platform, runtime_version) AS slice, \
         device, sumIf(count, type = 'app_launch') AS l, sumIf(count, type = 'js_error') AS j, \
         sumIf(count, type = 'crash') AS c, least(greatest(l, 1), 10000) AS s FROM health_events \
         WHERE {of} AND type != 'perf_sample' \
         AND received_at >= fromUnixTimestamp64Micro({{from_us:Int64}}, 'UTC') \
         AND received_at < {first_hour} \
         AND lowerUTF8(update_uuid) IN {{updates:Array(String)}} GROUP BY slice, device))"
    )
}

/// Percentiles by metric and hour of any rows of `perf_hours`, as an
/// aggregation over them: `n`, and `quantiles`, an array of p50, p95 and p99.
/// Exact linear interpolation up to 1,000 samples, else within 1 % of rank.
pub const PERCENTILES: &str = "sum(n) AS sample_count, \
     if(sum(n) <= 1000, \
     arrayReduce('quantilesExactInclusive(0.5, 0.95, 0.99)', groupArrayMerge(1001)(samples)), \
     arrayMap(q -> toFloat64(q), quantilesTDigestMerge(0.5, 0.95, 0.99)(sketch))) AS quantiles";
