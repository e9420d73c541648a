-- How many raw events there are, by the hour: the totals of lists of events
-- (telemetry.md §5.10), which would else be counted in 30 days of raw rows.
-- Counts rows, not the `count` in them. Kept as long as raw.

CREATE TABLE IF NOT EXISTS event_hours
(
    hour DateTime('UTC') CODEC(Delta(4), ZSTD(1)),
    project_id UInt64 CODEC(ZSTD(1)),
    type LowCardinality(String),
    channel LowCardinality(String),
    platform LowCardinality(String),
    runtime_version LowCardinality(String),
    -- In lower case.
    update_uuid LowCardinality(String),
    events SimpleAggregateFunction(sum, UInt64) CODEC(T64, ZSTD(1))
)
ENGINE = AggregatingMergeTree
PARTITION BY toDate(hour)
ORDER BY (project_id, hour, type, channel, platform, runtime_version, update_uuid)
TTL hour + INTERVAL 31 DAY DELETE
SETTINGS non_replicated_deduplication_window = 100000, ttl_only_drop_parts = 1,
    fsync_after_insert = 1, fsync_part_directory = 1, index_granularity = 1024;

-- Performance samples are never listed.
CREATE MATERIALIZED VIEW IF NOT EXISTS event_hours_mv TO event_hours AS
SELECT toStartOfHour(received_at) AS hour, project_id, type, channel, platform, runtime_version,
    lowerUTF8(update_uuid) AS update_uuid, count() AS events
FROM health_events
WHERE type != 'perf_sample'
GROUP BY hour, project_id, type, channel, platform, runtime_version, update_uuid;
