CREATE TABLE IF NOT EXISTS health_events
(
    received_at DateTime64(6, 'UTC') CODEC(Delta(8), ZSTD(1)), project_id UInt64 CODEC(ZSTD(1)),
    device_id String CODEC(ZSTD(1)), device UInt64 CODEC(ZSTD(1)),
    channel LowCardinality(String), platform LowCardinality(String), runtime_version LowCardinality(String), update_uuid LowCardinality(String),
    type LowCardinality(String), name LowCardinality(String), message String CODEC(ZSTD(1)), stack String CODEC(ZSTD(3)), component_stack String CODEC(ZSTD(3)), error_name LowCardinality(String),
    is_fatal UInt8, count UInt32 CODEC(T64, ZSTD(1)), duration_ms Float64 CODEC(ZSTD(1)), tags Map(LowCardinality(String), LowCardinality(String)) CODEC(ZSTD(1)),
    flag_map UInt64 CODEC(ZSTD(1)), frame_id UUID CODEC(ZSTD(1)),
    src_topic LowCardinality(String), src_partition UInt16 CODEC(ZSTD(1)), src_offset UInt64 CODEC(Delta(8), ZSTD(1)), src_index UInt16 CODEC(ZSTD(1)),
    batch_first UInt64 CODEC(Delta(8), ZSTD(1)), batch_last UInt64 CODEC(Delta(8), ZSTD(1))
)
ENGINE = MergeTree PARTITION BY toDate(received_at)
ORDER BY (project_id, received_at, src_partition, src_offset, src_index)
TTL toDateTime(received_at) + INTERVAL 31 DAY DELETE
SETTINGS non_replicated_deduplication_window = 10000, ttl_only_drop_parts = 1;
CREATE TABLE IF NOT EXISTS device_hours
(
    hour DateTime('UTC') CODEC(ZSTD(1)), project_id UInt64 CODEC(ZSTD(1)), update_uuid LowCardinality(String), channel LowCardinality(String), platform LowCardinality(String), runtime_version LowCardinality(String),
    device UInt64 CODEC(ZSTD(1)), flag_map UInt64 CODEC(ZSTD(1)),
    launches SimpleAggregateFunction(sum, UInt64), js_errors SimpleAggregateFunction(sum, UInt64),
    crashes SimpleAggregateFunction(sum, UInt64), customs SimpleAggregateFunction(sum, UInt64)
)
ENGINE = AggregatingMergeTree PARTITION BY hour
ORDER BY (project_id, update_uuid, channel, platform, runtime_version, device, flag_map)
SETTINGS non_replicated_deduplication_window = 10000;
CREATE MATERIALIZED VIEW IF NOT EXISTS device_hours_mv TO device_hours AS
SELECT toStartOfHour(received_at) AS hour, project_id, lowerUTF8(update_uuid) AS update_uuid, channel, platform, runtime_version, device, flag_map,
       sumIf(count, type = 'app_launch') AS launches, sumIf(count, type = 'js_error') AS js_errors, sumIf(count, type = 'crash') AS crashes, sumIf(count, type = 'custom') AS customs
FROM health_events WHERE type != 'perf_sample' GROUP BY hour, project_id, update_uuid, channel, platform, runtime_version, device, flag_map;
CREATE TABLE IF NOT EXISTS custom_hours
(
    hour DateTime('UTC'), project_id UInt64, update_uuid LowCardinality(String), channel LowCardinality(String),
    platform LowCardinality(String), name LowCardinality(String), n SimpleAggregateFunction(sum, UInt64)
)
ENGINE = AggregatingMergeTree PARTITION BY toYYYYMM(hour)
ORDER BY (project_id, update_uuid, name, hour, channel, platform)
SETTINGS non_replicated_deduplication_window = 10000;
CREATE MATERIALIZED VIEW IF NOT EXISTS custom_hours_mv TO custom_hours AS
SELECT toStartOfHour(received_at) AS hour, project_id, lowerUTF8(update_uuid) AS update_uuid, channel, platform, name, sum(count) AS n
FROM health_events WHERE type = 'custom' GROUP BY ALL;
CREATE TABLE IF NOT EXISTS flag_maps
(project_id UInt64, flag_map UInt64, seen Date, flags Array(Tuple(LowCardinality(String), LowCardinality(String))))
ENGINE = ReplacingMergeTree(seen) ORDER BY (project_id, flag_map);
CREATE TABLE IF NOT EXISTS folds
(kind LowCardinality(String), slot DateTime('UTC'), ver UInt64, done DateTime64(3, 'UTC') DEFAULT now64(3))
ENGINE = MergeTree ORDER BY (kind, slot, ver) TTL slot + INTERVAL 13 MONTH DELETE;
CREATE TABLE IF NOT EXISTS watermarks (src_topic LowCardinality(String), src_partition UInt16, watermark DateTime64(6, 'UTC'))
ENGINE = ReplacingMergeTree(watermark) ORDER BY (src_topic, src_partition);
CREATE TABLE IF NOT EXISTS resolved_slugs (src_topic LowCardinality(String), src_partition UInt16, src_offset UInt64, slug String, project_id UInt64, resolved_at DateTime DEFAULT now())
ENGINE = MergeTree ORDER BY (src_topic, src_partition, src_offset) TTL resolved_at + INTERVAL 31 DAY;
