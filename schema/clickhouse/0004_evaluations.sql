-- Flag evaluations: raw counts as devices and bulk answers reported them, and
-- what a view makes of them on insert. Both tables remember the tokens of the
-- same number of inserts, as all that get rows by batches do (0001).
--
-- A value is kept as it was reported. Which variation it is, and whether there
-- is such a flag, is decided when counts are read (docs/decisions/0080).

CREATE TABLE IF NOT EXISTS flag_evaluations
(
    -- Of the report; of a bulk count, the newest answer in it.
    received_at DateTime64(6, 'UTC') CODEC(Delta(8), ZSTD(1)),
    project_id UInt64 CODEC(ZSTD(1)),
    flag_key LowCardinality(String),
    -- Compact JSON; "sha256:<hex>" as JSON in place of what is long or deep.
    value LowCardinality(String),
    -- Empty where there is none.
    channel LowCardinality(String),
    -- sdk: reported by a device; bulk: answered by the API. stream counts nothing yet.
    source LowCardinality(String),
    count UInt64 CODEC(T64, ZSTD(1)),
    frame_id UUID CODEC(ZSTD(1)),
    -- Where the entry lies in the log; a bulk count in the series of its API process.
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
-- No read uses it but the take-over and the check of replays.
TTL toDateTime(received_at) + INTERVAL 8 DAY DELETE
SETTINGS non_replicated_deduplication_window = 100000, ttl_only_drop_parts = 1,
    fsync_after_insert = 1, fsync_part_directory = 1;

-- What every read uses; a day is the sum of its hours.
CREATE TABLE IF NOT EXISTS evaluation_hours
(
    hour DateTime('UTC') CODEC(Delta(4), ZSTD(1)),
    project_id UInt64 CODEC(ZSTD(1)),
    flag_key LowCardinality(String),
    value LowCardinality(String),
    channel LowCardinality(String),
    source LowCardinality(String),
    n SimpleAggregateFunction(sum, UInt64) CODEC(T64, ZSTD(1)),
    last_at SimpleAggregateFunction(max, DateTime64(6, 'UTC')) CODEC(ZSTD(1))
)
ENGINE = AggregatingMergeTree
PARTITION BY toYYYYMM(hour)
ORDER BY (project_id, flag_key, hour, channel, source, value)
TTL hour + INTERVAL 25 MONTH DELETE
SETTINGS non_replicated_deduplication_window = 100000, ttl_only_drop_parts = 1,
    fsync_after_insert = 1, fsync_part_directory = 1;

CREATE MATERIALIZED VIEW IF NOT EXISTS evaluation_hours_mv TO evaluation_hours AS
SELECT toStartOfHour(received_at) AS hour, project_id, flag_key, value, channel, source,
    sum(count) AS n, max(received_at) AS last_at
FROM flag_evaluations
GROUP BY hour, project_id, flag_key, value, channel, source;
