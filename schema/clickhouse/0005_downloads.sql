-- Downloads, installs and active devices (telemetry.md §8): raw requests of the
-- manifest endpoint, and what views make of them, and of health events, on
-- insert. All that get rows by batches remember the tokens of the same number
-- of inserts (0001).
--
-- Who a device is, is decided when counts are read (docs/decisions/0090): rows
-- keep the number of its device id and that of its client id, either of which
-- may be 0 for none, and client_devices says which device a client is.

CREATE TABLE IF NOT EXISTS manifest_requests
(
    received_at DateTime64(6, 'UTC') CODEC(Delta(8), ZSTD(1)),
    project_id UInt64 CODEC(ZSTD(1)),
    device_id String CODEC(ZSTD(1)),
    client_id String CODEC(ZSTD(1)),
    -- Hash of device_id, as in health_events; 0 where that is empty.
    device UInt64 CODEC(ZSTD(1)),
    -- Hash of "eas:" and client_id; 0 where that is empty.
    client UInt64 CODEC(ZSTD(1)),
    platform LowCardinality(String),
    runtime_version LowCardinality(String),
    channel LowCardinality(String),
    -- The update in the answer; nil: none, so that it was no download.
    served_update UUID CODEC(ZSTD(1)),
    -- What the device was running; nil where it did not say.
    current_update UUID CODEC(ZSTD(1)),
    fatal_error String CODEC(ZSTD(1)),
    -- Updates that crashed at launch, with commas between.
    failed_updates String CODEC(ZSTD(1)),
    frame_id UUID CODEC(ZSTD(1)),
    -- Where the request lies in the log. The topic names its incarnation.
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
-- What is counted is kept below; this is for take-overs, replays and failures.
TTL toDateTime(received_at) + INTERVAL 31 DAY DELETE
SETTINGS non_replicated_deduplication_window = 100000, ttl_only_drop_parts = 1,
    fsync_after_insert = 1, fsync_part_directory = 1;

-- The device id last seen with a client id.
CREATE TABLE IF NOT EXISTS client_devices
(
    project_id UInt64 CODEC(ZSTD(1)),
    client UInt64 CODEC(ZSTD(1)),
    newest AggregateFunction(argMax, UInt64, DateTime64(6, 'UTC'))
)
ENGINE = AggregatingMergeTree
ORDER BY (project_id, client)
SETTINGS non_replicated_deduplication_window = 100000,
    fsync_after_insert = 1, fsync_part_directory = 1;

CREATE MATERIALIZED VIEW IF NOT EXISTS client_devices_mv TO client_devices AS
SELECT project_id, client, argMaxState(device, received_at) AS newest
FROM manifest_requests
WHERE device != 0 AND client != 0
GROUP BY project_id, client;

-- Served manifests by hour and device: what charts show.
CREATE TABLE IF NOT EXISTS download_hours
(
    hour DateTime('UTC') CODEC(Delta(4), ZSTD(1)),
    project_id UInt64 CODEC(ZSTD(1)),
    update_uuid UUID CODEC(ZSTD(1)),
    channel LowCardinality(String),
    platform LowCardinality(String),
    device UInt64 CODEC(ZSTD(1)),
    client UInt64 CODEC(ZSTD(1)),
    n SimpleAggregateFunction(sum, UInt64) CODEC(T64, ZSTD(1))
)
ENGINE = AggregatingMergeTree
PARTITION BY toYYYYMM(hour)
ORDER BY (project_id, hour, update_uuid, channel, platform, device, client)
TTL hour + INTERVAL 13 MONTH DELETE
SETTINGS non_replicated_deduplication_window = 100000, ttl_only_drop_parts = 1,
    fsync_after_insert = 1, fsync_part_directory = 1;

CREATE MATERIALIZED VIEW IF NOT EXISTS download_hours_mv TO download_hours AS
SELECT toStartOfHour(received_at) AS hour, project_id, served_update AS update_uuid,
    channel, platform, device, client, count() AS n
FROM manifest_requests
WHERE notEmpty(served_update)
GROUP BY hour, project_id, update_uuid, channel, platform, device, client;

-- Per update and device the evidence that it was served or is running there;
-- with the nil UUID, that a device is active without saying what it runs. For
-- the life of the update: numbers only, nothing that a device sent as text.
CREATE TABLE IF NOT EXISTS device_updates
(
    month Date CODEC(ZSTD(1)),
    project_id UInt64 CODEC(ZSTD(1)),
    update_uuid UUID CODEC(ZSTD(1)),
    -- 1: manifests served. 0: running, by health events and manifest requests.
    served UInt8,
    channel LowCardinality(String),
    platform LowCardinality(String),
    device UInt64 CODEC(ZSTD(1)),
    client UInt64 CODEC(ZSTD(1)),
    n SimpleAggregateFunction(sum, UInt64) CODEC(T64, ZSTD(1)),
    first_at SimpleAggregateFunction(min, DateTime64(6, 'UTC')) CODEC(ZSTD(1)),
    last_at SimpleAggregateFunction(max, DateTime64(6, 'UTC')) CODEC(ZSTD(1))
)
ENGINE = AggregatingMergeTree
PARTITION BY month
ORDER BY (project_id, update_uuid, served, channel, platform, device, client)
SETTINGS non_replicated_deduplication_window = 100000,
    fsync_after_insert = 1, fsync_part_directory = 1;

-- A request may be two pieces of evidence: of what ran, and of what was served.
CREATE MATERIALIZED VIEW IF NOT EXISTS device_updates_of_manifests_mv TO device_updates AS
SELECT toStartOfMonth(received_at) AS month, project_id, evidence.2 AS update_uuid,
    evidence.1 AS served, channel, platform, device, client,
    count() AS n, min(received_at) AS first_at, max(received_at) AS last_at
FROM manifest_requests
ARRAY JOIN [(toUInt8(1), served_update), (toUInt8(0), current_update)] AS evidence
WHERE if(evidence.1 = 1, notEmpty(evidence.2), device != 0 OR client != 0)
GROUP BY month, project_id, update_uuid, served, channel, platform, device, client;

-- What is no UUID is no update of ours.
CREATE MATERIALIZED VIEW IF NOT EXISTS device_updates_of_health_mv TO device_updates AS
SELECT toStartOfMonth(received_at) AS month, project_id,
    toUUIDOrZero(health_events.update_uuid) AS update_uuid, toUInt8(0) AS served,
    channel, platform, device, toUInt64(0) AS client,
    count() AS n, min(received_at) AS first_at, max(received_at) AS last_at
FROM health_events
WHERE type != 'perf_sample' AND device != 0
GROUP BY month, project_id, health_events.update_uuid, channel, platform, device;
