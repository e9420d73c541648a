-- What the writer fills: raw events, what views make of them on insert, and the
-- writer's own small tables. An insert carries a deduplication token, which
-- each table that gets rows of it must remember: hence the windows, which are
-- equal, and which the writer knows (DEDUPLICATION_WINDOW). Synced on insert,
-- because the log forgets what is acknowledged here.

CREATE TABLE IF NOT EXISTS health_events
(
    received_at DateTime64(6, 'UTC') CODEC(Delta(8), ZSTD(1)),
    project_id UInt64 CODEC(ZSTD(1)),
    device_id String CODEC(ZSTD(1)),
    -- Hash of device_id; 0 where that is empty: counted, never a distinct device.
    device UInt64 CODEC(ZSTD(1)),
    channel LowCardinality(String),
    platform LowCardinality(String),
    runtime_version LowCardinality(String),
    -- As sent; compared in lower case.
    update_uuid LowCardinality(String),
    type LowCardinality(String),
    name LowCardinality(String),
    message String CODEC(ZSTD(1)),
    stack String CODEC(ZSTD(3)),
    component_stack String CODEC(ZSTD(3)),
    error_name LowCardinality(String),
    is_fatal UInt8,
    count UInt32 CODEC(T64, ZSTD(1)),
    -- Of a performance sample; else 0.
    duration_ms Float64 CODEC(ZSTD(1)),
    -- Empty for performance samples.
    tags Map(LowCardinality(String), LowCardinality(String)) CODEC(ZSTD(1)),
    -- Key of flag_maps; 0: no flagStates; the largest number: over the cap, in no slice.
    flag_map UInt64 CODEC(ZSTD(1)),
    frame_id UUID CODEC(ZSTD(1)),
    -- Where the event lies in the log. The topic names its incarnation.
    src_topic LowCardinality(String),
    src_partition UInt16 CODEC(ZSTD(1)),
    src_offset UInt64 CODEC(Delta(8), ZSTD(1)),
    src_index UInt16 CODEC(ZSTD(1)),
    -- The offsets of the insert that it came with: how a take-over rebuilds it.
    batch_first UInt64 CODEC(Delta(8), ZSTD(1)),
    batch_last UInt64 CODEC(Delta(8), ZSTD(1)),
    INDEX batch_last_minmax batch_last TYPE minmax GRANULARITY 4
)
ENGINE = MergeTree
PARTITION BY toDate(received_at)
ORDER BY (project_id, received_at, src_partition, src_offset, src_index)
TTL toDateTime(received_at) + INTERVAL 31 DAY DELETE
SETTINGS non_replicated_deduplication_window = 100000, ttl_only_drop_parts = 1,
    fsync_after_insert = 1, fsync_part_directory = 1;

-- Per device, hour and slice (telemetry.md §4.1). `slice` is one number for
-- (project, update, channel, platform, runtime), so that grouping needs integer keys only.
CREATE TABLE IF NOT EXISTS device_hours
(
    hour DateTime('UTC') CODEC(ZSTD(1)),
    project_id UInt64 CODEC(ZSTD(1)),
    update_uuid LowCardinality(String),
    channel LowCardinality(String),
    platform LowCardinality(String),
    runtime_version LowCardinality(String),
    device UInt64 CODEC(ZSTD(1)),
    flag_map UInt64 CODEC(ZSTD(1)),
    launches SimpleAggregateFunction(sum, UInt64) CODEC(T64, ZSTD(1)),
    js_errors SimpleAggregateFunction(sum, UInt64) CODEC(T64, ZSTD(1)),
    crashes SimpleAggregateFunction(sum, UInt64) CODEC(T64, ZSTD(1)),
    customs SimpleAggregateFunction(sum, UInt64) CODEC(T64, ZSTD(1)),
    slice UInt64 DEFAULT cityHash64(project_id, update_uuid, channel, platform, runtime_version) CODEC(ZSTD(1))
)
ENGINE = AggregatingMergeTree
PARTITION BY hour
ORDER BY (project_id, update_uuid, channel, platform, runtime_version, slice, device, flag_map)
TTL hour + INTERVAL 8 DAY DELETE
SETTINGS non_replicated_deduplication_window = 100000, ttl_only_drop_parts = 1,
    fsync_after_insert = 1, fsync_part_directory = 1;

-- Performance samples form no device-hour.
CREATE MATERIALIZED VIEW IF NOT EXISTS device_hours_mv TO device_hours AS
SELECT toStartOfHour(received_at) AS hour, project_id, lowerUTF8(update_uuid) AS update_uuid,
    channel, platform, runtime_version, device, flag_map,
    sumIf(count, type = 'app_launch') AS launches, sumIf(count, type = 'js_error') AS js_errors,
    sumIf(count, type = 'crash') AS crashes, sumIf(count, type = 'custom') AS customs
FROM health_events
WHERE type != 'perf_sample'
GROUP BY hour, project_id, update_uuid, channel, platform, runtime_version, device, flag_map;

-- Totals of custom events by name.
CREATE TABLE IF NOT EXISTS custom_hours
(
    hour DateTime('UTC') CODEC(Delta(4), ZSTD(1)),
    project_id UInt64 CODEC(ZSTD(1)),
    update_uuid LowCardinality(String),
    channel LowCardinality(String),
    platform LowCardinality(String),
    name LowCardinality(String),
    n SimpleAggregateFunction(sum, UInt64)
)
ENGINE = AggregatingMergeTree
PARTITION BY toYYYYMM(hour)
ORDER BY (project_id, update_uuid, name, hour, channel, platform)
TTL hour + INTERVAL 13 MONTH DELETE
SETTINGS non_replicated_deduplication_window = 100000, ttl_only_drop_parts = 1,
    fsync_after_insert = 1, fsync_part_directory = 1;

CREATE MATERIALIZED VIEW IF NOT EXISTS custom_hours_mv TO custom_hours AS
SELECT toStartOfHour(received_at) AS hour, project_id, lowerUTF8(update_uuid) AS update_uuid,
    channel, platform, name, sum(count) AS n
FROM health_events
WHERE type = 'custom'
GROUP BY hour, project_id, update_uuid, channel, platform, name;

-- The dictionary of flag maps. A map is here before the first rows that name it.
CREATE TABLE IF NOT EXISTS flag_maps
(
    project_id UInt64,
    flag_map UInt64,
    -- The newest day of use.
    seen Date,
    -- (key, compact JSON of the value), by key.
    flags Array(Tuple(LowCardinality(String), LowCardinality(String)))
)
ENGINE = ReplacingMergeTree(seen)
ORDER BY (project_id, flag_map);

-- The commit record of every fold, and of rows that came late into an hour.
-- Rows of a version that has no record here do not exist for any reader.
CREATE TABLE IF NOT EXISTS folds
(
    -- hour, day, now: a finished fold. late: rows came into an hour that may be folded.
    kind LowCardinality(String),
    slot DateTime('UTC'),
    -- Unique per attempt: microseconds since 1970 of its start.
    ver UInt64,
    done DateTime64(3, 'UTC') DEFAULT now64(3)
)
ENGINE = MergeTree
ORDER BY (kind, slot, ver)
TTL slot + INTERVAL 13 MONTH DELETE;

-- Up to which receipt each partition is in all of the tables above.
CREATE TABLE IF NOT EXISTS watermarks
(
    src_topic LowCardinality(String),
    src_partition UInt16,
    watermark DateTime64(6, 'UTC')
)
ENGINE = ReplacingMergeTree(watermark)
ORDER BY (src_topic, src_partition);

-- How slugs that the edge could not resolve were resolved: the first answer stays.
CREATE TABLE IF NOT EXISTS resolved_slugs
(
    src_topic LowCardinality(String),
    src_partition UInt16,
    src_offset UInt64,
    slug String,
    -- 0: no such project.
    project_id UInt64,
    resolved_at DateTime('UTC') DEFAULT now()
)
ENGINE = MergeTree
ORDER BY (src_topic, src_partition, src_offset)
TTL resolved_at + INTERVAL 31 DAY DELETE;
