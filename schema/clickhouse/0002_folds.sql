-- What reads use: device_hours folded into sums and sets of distinct devices,
-- and performance samples by the hour.
--
-- A row of a folded table counts only where the ledger (`folds`) has its
-- version: each attempt writes under a `ver` of its own, and one row of the
-- ledger commits it. Which versions answer a window is decided by
-- sluice_schema::clickhouse::ledger; a read names them: `ver IN (...)`.
--
-- Columns are the symbols of telemetry.md §4.1. L, J, C: launches, JS errors,
-- crashes. S: sessions; E, EJ, EC: failed sessions, by JS errors, by crashes.
-- H: device-hours; K: custom events. All of them plain sums, which add up over
-- rows. U: distinct devices; UE, UJ, UC: with an error of either kind, with a JS
-- error, with a crash. Those are states, which merge.

-- Of a day: the hours that it sums up, in seconds since 1970, and the version of
-- each. Else empty.
ALTER TABLE folds ADD COLUMN IF NOT EXISTS parts Array(Tuple(UInt32, UInt64));

-- What the writer says here, too, must outlive the log's knowledge of it.
ALTER TABLE folds MODIFY SETTING fsync_after_insert = 1, fsync_part_directory = 1;

ALTER TABLE flag_maps MODIFY SETTING fsync_after_insert = 1, fsync_part_directory = 1;

-- A day outlives its hours.
ALTER TABLE folds MODIFY TTL slot + INTERVAL 25 MONTH DELETE;

-- Charts by the hour, and the gate.
CREATE TABLE IF NOT EXISTS hourly
(
    hour DateTime('UTC') CODEC(Delta(4), ZSTD(1)),
    ver UInt64 CODEC(ZSTD(1)),
    project_id UInt64 CODEC(ZSTD(1)),
    update_uuid LowCardinality(String),
    channel LowCardinality(String),
    platform LowCardinality(String),
    runtime_version LowCardinality(String),
    L UInt64 CODEC(T64, ZSTD(1)),
    J UInt64 CODEC(T64, ZSTD(1)),
    C UInt64 CODEC(T64, ZSTD(1)),
    S UInt64 CODEC(T64, ZSTD(1)),
    E UInt64 CODEC(T64, ZSTD(1)),
    EJ UInt64 CODEC(T64, ZSTD(1)),
    EC UInt64 CODEC(T64, ZSTD(1)),
    H UInt64 CODEC(T64, ZSTD(1)),
    K UInt64 CODEC(T64, ZSTD(1)),
    U AggregateFunction(uniqCombined64(16), UInt64),
    UE AggregateFunction(uniqCombined64(16), UInt64),
    UJ AggregateFunction(uniqCombined64(16), UInt64),
    UC AggregateFunction(uniqCombined64(16), UInt64)
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(hour)
ORDER BY (project_id, update_uuid, hour, channel, platform, runtime_version)
TTL hour + INTERVAL 13 MONTH DELETE
SETTINGS index_granularity = 256, ttl_only_drop_parts = 1,
    fsync_after_insert = 1, fsync_part_directory = 1;

-- Inside flag slices, where a device-hour is formed per flag map too; by update.
-- A flag = value is the sum over the maps that hold it: join flag_maps, which
-- also leaves out what has no map in the dictionary. Rows of device-hours with a
-- launch without flags are not here (Rule F), nor is the overflow map.
CREATE TABLE IF NOT EXISTS hourly_maps
(
    hour DateTime('UTC') CODEC(Delta(4), ZSTD(1)),
    ver UInt64 CODEC(ZSTD(1)),
    project_id UInt64 CODEC(ZSTD(1)),
    update_uuid LowCardinality(String),
    channel LowCardinality(String),
    platform LowCardinality(String),
    runtime_version LowCardinality(String),
    flag_map UInt64 CODEC(ZSTD(1)),
    L UInt64 CODEC(T64, ZSTD(1)),
    J UInt64 CODEC(T64, ZSTD(1)),
    C UInt64 CODEC(T64, ZSTD(1)),
    S UInt64 CODEC(T64, ZSTD(1)),
    E UInt64 CODEC(T64, ZSTD(1)),
    EJ UInt64 CODEC(T64, ZSTD(1)),
    EC UInt64 CODEC(T64, ZSTD(1)),
    H UInt64 CODEC(T64, ZSTD(1)),
    U AggregateFunction(uniqCombined64(12), UInt64),
    UE AggregateFunction(uniqCombined64(12), UInt64)
)
ENGINE = MergeTree
PARTITION BY toDate(hour)
ORDER BY (project_id, hour, channel, runtime_version, platform, flag_map, update_uuid)
TTL hour + INTERVAL 8 DAY DELETE
SETTINGS index_granularity = 1024, ttl_only_drop_parts = 1,
    fsync_after_insert = 1, fsync_part_directory = 1;

-- The same over all updates.
CREATE TABLE IF NOT EXISTS hourly_flags
(
    hour DateTime('UTC') CODEC(Delta(4), ZSTD(1)),
    ver UInt64 CODEC(ZSTD(1)),
    project_id UInt64 CODEC(ZSTD(1)),
    channel LowCardinality(String),
    platform LowCardinality(String),
    runtime_version LowCardinality(String),
    flag_map UInt64 CODEC(ZSTD(1)),
    L UInt64 CODEC(T64, ZSTD(1)),
    J UInt64 CODEC(T64, ZSTD(1)),
    C UInt64 CODEC(T64, ZSTD(1)),
    S UInt64 CODEC(T64, ZSTD(1)),
    E UInt64 CODEC(T64, ZSTD(1)),
    EJ UInt64 CODEC(T64, ZSTD(1)),
    EC UInt64 CODEC(T64, ZSTD(1)),
    H UInt64 CODEC(T64, ZSTD(1)),
    U AggregateFunction(uniqCombined64(12), UInt64),
    UE AggregateFunction(uniqCombined64(12), UInt64)
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(hour)
ORDER BY (project_id, hour, channel, runtime_version, platform, flag_map)
TTL hour + INTERVAL 35 DAY DELETE
SETTINGS index_granularity = 256, ttl_only_drop_parts = 1,
    fsync_after_insert = 1, fsync_part_directory = 1;

-- Days of `hourly`.
CREATE TABLE IF NOT EXISTS daily
(
    day DateTime('UTC') CODEC(Delta(4), ZSTD(1)),
    ver UInt64 CODEC(ZSTD(1)),
    project_id UInt64 CODEC(ZSTD(1)),
    channel LowCardinality(String),
    platform LowCardinality(String),
    L UInt64 CODEC(T64, ZSTD(1)),
    J UInt64 CODEC(T64, ZSTD(1)),
    C UInt64 CODEC(T64, ZSTD(1)),
    S UInt64 CODEC(T64, ZSTD(1)),
    E UInt64 CODEC(T64, ZSTD(1)),
    EJ UInt64 CODEC(T64, ZSTD(1)),
    EC UInt64 CODEC(T64, ZSTD(1)),
    H UInt64 CODEC(T64, ZSTD(1)),
    K UInt64 CODEC(T64, ZSTD(1)),
    U AggregateFunction(uniqCombined64(16), UInt64),
    UE AggregateFunction(uniqCombined64(16), UInt64)
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(day)
ORDER BY (project_id, day, channel, platform)
TTL day + INTERVAL 25 MONTH DELETE
SETTINGS index_granularity = 256, ttl_only_drop_parts = 1,
    fsync_after_insert = 1, fsync_part_directory = 1;

-- Days of `hourly_flags`.
CREATE TABLE IF NOT EXISTS daily_flags
(
    day DateTime('UTC') CODEC(Delta(4), ZSTD(1)),
    ver UInt64 CODEC(ZSTD(1)),
    project_id UInt64 CODEC(ZSTD(1)),
    channel LowCardinality(String),
    platform LowCardinality(String),
    runtime_version LowCardinality(String),
    flag_map UInt64 CODEC(ZSTD(1)),
    L UInt64 CODEC(T64, ZSTD(1)),
    J UInt64 CODEC(T64, ZSTD(1)),
    C UInt64 CODEC(T64, ZSTD(1)),
    S UInt64 CODEC(T64, ZSTD(1)),
    E UInt64 CODEC(T64, ZSTD(1)),
    EJ UInt64 CODEC(T64, ZSTD(1)),
    EC UInt64 CODEC(T64, ZSTD(1)),
    H UInt64 CODEC(T64, ZSTD(1)),
    U AggregateFunction(uniqCombined64(12), UInt64),
    UE AggregateFunction(uniqCombined64(12), UInt64)
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(day)
ORDER BY (project_id, day, channel, runtime_version, platform, flag_map)
TTL day + INTERVAL 13 MONTH DELETE
SETTINGS index_granularity = 256, ttl_only_drop_parts = 1,
    fsync_after_insert = 1, fsync_part_directory = 1;

-- Days of `hourly_maps`.
CREATE TABLE IF NOT EXISTS daily_maps
(
    day DateTime('UTC') CODEC(Delta(4), ZSTD(1)),
    ver UInt64 CODEC(ZSTD(1)),
    project_id UInt64 CODEC(ZSTD(1)),
    update_uuid LowCardinality(String),
    channel LowCardinality(String),
    platform LowCardinality(String),
    runtime_version LowCardinality(String),
    flag_map UInt64 CODEC(ZSTD(1)),
    L UInt64 CODEC(T64, ZSTD(1)),
    J UInt64 CODEC(T64, ZSTD(1)),
    C UInt64 CODEC(T64, ZSTD(1)),
    S UInt64 CODEC(T64, ZSTD(1)),
    E UInt64 CODEC(T64, ZSTD(1)),
    EJ UInt64 CODEC(T64, ZSTD(1)),
    EC UInt64 CODEC(T64, ZSTD(1)),
    H UInt64 CODEC(T64, ZSTD(1)),
    U AggregateFunction(uniqCombined64(12), UInt64),
    UE AggregateFunction(uniqCombined64(12), UInt64)
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(day)
ORDER BY (project_id, day, channel, runtime_version, platform, flag_map, update_uuid)
TTL day + INTERVAL 35 DAY DELETE
SETTINGS index_granularity = 1024, ttl_only_drop_parts = 1,
    fsync_after_insert = 1, fsync_part_directory = 1;

-- Hours that are not closed, folded again and again: as `hourly` and
-- `hourly_maps`, for whichever read has those or `hourly_flags`. A version is a
-- partition, dropped minutes after a newer one.
CREATE TABLE IF NOT EXISTS hourly_now AS hourly
ENGINE = MergeTree
PARTITION BY ver
ORDER BY (project_id, update_uuid, hour, channel, platform, runtime_version);

CREATE TABLE IF NOT EXISTS hourly_maps_now AS hourly_maps
ENGINE = MergeTree
PARTITION BY ver
ORDER BY (project_id, hour, channel, runtime_version, platform, flag_map, update_uuid);

-- Up to which receipt everything is in committed folds: one row, the largest
-- counts. Absent before the first.
CREATE TABLE IF NOT EXISTS folded_until
(
    id UInt8 DEFAULT 0,
    watermark DateTime64(6, 'UTC')
)
ENGINE = ReplacingMergeTree(watermark)
ORDER BY id;

-- Performance samples of an hour. Any rows of one metric merge into its
-- percentiles: where their n is 1,000 or less, `samples` has every one of them;
-- else `sketch` has any rank within 1 %.
CREATE TABLE IF NOT EXISTS perf_hours
(
    hour DateTime('UTC') CODEC(Delta(4), ZSTD(1)),
    project_id UInt64 CODEC(ZSTD(1)),
    channel LowCardinality(String),
    platform LowCardinality(String),
    runtime_version LowCardinality(String),
    metric LowCardinality(String),
    n SimpleAggregateFunction(sum, UInt64) CODEC(T64, ZSTD(1)),
    samples AggregateFunction(groupArray(1001), Float64) CODEC(ZSTD(1)),
    sketch AggregateFunction(quantilesTDigest(0.5, 0.95, 0.99), Float64) CODEC(ZSTD(1))
)
ENGINE = AggregatingMergeTree
PARTITION BY toYYYYMM(hour)
ORDER BY (project_id, hour, metric, channel, platform, runtime_version)
TTL hour + INTERVAL 13 MONTH DELETE
SETTINGS non_replicated_deduplication_window = 100000, ttl_only_drop_parts = 1,
    fsync_after_insert = 1, fsync_part_directory = 1, index_granularity = 256;

CREATE MATERIALIZED VIEW IF NOT EXISTS perf_hours_mv TO perf_hours AS
SELECT toStartOfHour(received_at) AS hour, project_id, channel, platform, runtime_version,
    name AS metric, count() AS n, groupArrayState(1001)(duration_ms) AS samples,
    quantilesTDigestState(0.5, 0.95, 0.99)(duration_ms) AS sketch
FROM health_events
WHERE type = 'perf_sample'
GROUP BY hour, project_id, channel, platform, runtime_version, metric;
