-- Facts of a store that a hundred million events, or ten, left behind, made
-- where they are stored. Each statement begins with "-- @name"; its parameters
-- are ClickHouse's. The shape: docs/decisions/0052.

-- @devices_table
-- Every device there is. Twice as many as are seen on a day.
CREATE TABLE bench_devices
(
    project_id UInt64,
    device UInt64,
    client UInt64,
    channel_no UInt8,
    channel LowCardinality(String),
    platform LowCardinality(String),
    runtime_version LowCardinality(String),
    -- An old client: its launches have no flags.
    is_old UInt8
)
ENGINE = MergeTree ORDER BY (project_id, device);

-- @devices
INSERT INTO bench_devices
SELECT p, d, cityHash64('client', d), x, ['production', 'staging', 'beta'][x + 1],
    ['ios', 'android'][d % 2 + 1], concat('1.', toString(intDiv(d, 2) % 5), '.0'), intDiv(d, 10) % 50 = 0
FROM (
    SELECT {project:UInt64} AS p, cityHash64('device', p, number) AS d,
        multiIf(intDiv(d, 1000) % 20 < 14, 0, intDiv(d, 1000) % 20 < 18, 1, 2) AS x
    FROM numbers(2 * {daily:UInt64})
);

-- @flag_maps
-- Thirty a channel: thirteen of forty flags, each on or off.
INSERT INTO flag_maps
SELECT {project:UInt64}, cityHash64('map', {project:UInt64}, toUInt8(intDiv(number, 30)), number % 30), today(),
    arraySort(arrayMap(i -> (concat('bench-flag-', leftPad(toString((number * 7 + i * 3) % 40), 2, '0')),
        if(cityHash64(number, i) % 2 = 0, 'true', 'false')), range(13)))
FROM numbers(90);

-- @device_hours
-- An hour. Half of the devices are there on a day, five hours of it each. Of
-- the device-hours 3 % see a second flag map and 1 % a second update.
INSERT INTO device_hours (hour, project_id, update_uuid, channel, platform, runtime_version, device, flag_map, launches, js_errors, crashes, customs)
SELECT h, project_id,
    concat(leftPad(toString(project_id), 8, '0'), '-0000-4000-8000-', leftPad(toString(channel_no * 10 + seen.1), 12, '0')),
    channel, platform, runtime_version, device,
    if(is_old, 0, cityHash64('map', project_id, channel_no, seen.2)),
    1 + intDiv(x, 7) % 2, intDiv(x, 11) % 100 = 0, intDiv(x, 1100) % 500 = 0, 3
FROM (
    SELECT toDateTime({h:UInt32}, 'UTC') AS h, project_id, channel_no, channel, platform, runtime_version, device, is_old,
        cityHash64(device, h) AS x,
        cityHash64(device, intDiv(toRelativeDayNum(h), 23)) % 10 AS u, intDiv(device, 100) % 30 AS m,
        arrayJoin(arrayConcat([(u, m)],
            if(intDiv(x, 13) % 100 < 3, [(u, (m + 1 + x % 29) % 30)], []),
            if(intDiv(x, 1300) % 100 = 0, [((u + 1) % 10, m)], []))) AS seen
    FROM bench_devices
    WHERE cityHash64(device, toRelativeDayNum(h)) % 2 = 0
        AND x % 10000 < 10000 * 5 / 24 * (1 + 0.6 * sin(2 * pi() * (toHour(h) - 13) / 24))
)
SETTINGS prefer_column_name_to_alias = 0;

-- @updates_served
-- Four updates a device in 90 days: when it was served each.
CREATE TABLE bench_served ENGINE = MergeTree ORDER BY (project_id, device) AS
SELECT project_id, device, client, channel, platform, at,
    toUUID(concat(leftPad(toString(project_id), 8, '0'), '-0000-4000-8000-',
        leftPad(toString(channel_no * 10 + cityHash64(device, block) % 10), 12, '0'))) AS update_uuid,
    addDays(from, 22) AS until, block
FROM (
    SELECT *, arrayJoin(range(4)) AS block,
        toStartOfDay(now('UTC')) - INTERVAL 89 DAY + INTERVAL 22 * block DAY AS from,
        from + cityHash64(device, block, 'served') % (15 * 86400) AS at
    FROM bench_devices
);

-- @device_updates_served
-- Asked twice; of a third of the installs the first time without a device id.
INSERT INTO device_updates
SELECT toStartOfMonth(at), project_id, update_uuid, 1, channel, platform, who.1, client, who.2, at, at + 60
FROM bench_served
ARRAY JOIN if(block = 0 AND device % 3 = 0, [(device, 1), (0, 1)], [(device, 2)]) AS who;

-- @device_updates_running
-- By health events, and by manifest requests, in each month.
INSERT INTO device_updates
SELECT toStartOfMonth(seen), project_id, update_uuid, 0, channel, platform, device, who, 20, seen, seen + 86400
FROM (SELECT *, arrayJoin(if(toStartOfMonth(at) = toStartOfMonth(until), [at], [at, toDateTime(toStartOfMonth(until), 'UTC')])) AS seen FROM bench_served)
ARRAY JOIN [0, client] AS who;

-- @client_devices
INSERT INTO client_devices
SELECT project_id, client, argMaxState(device, toDateTime64(today(), 6, 'UTC')) FROM bench_devices GROUP BY project_id, client;

-- @download_hours
INSERT INTO download_hours
SELECT toStartOfHour(at), project_id, update_uuid, channel, platform, who.1, client, who.2
FROM bench_served
ARRAY JOIN if(block = 0 AND device % 3 = 0, [(device, 1), (0, 1)], [(device, 2)]) AS who;

-- @evaluation_hours
INSERT INTO evaluation_hours
SELECT toStartOfHour(now('UTC')) - INTERVAL intDiv(number, 240) HOUR, {project:UInt64},
    concat('bench-flag-', leftPad(toString(number % 40), 2, '0')), ['true', 'false'][intDiv(number, 40) % 2 + 1],
    ['production', 'staging', 'beta'][intDiv(number, 80) % 3 + 1], 'sdk', 1 + number % 1000, now64(6, 'UTC')
FROM numbers(90 * 24 * 240);

-- @copy_days
-- Folded days, {every} days earlier, and so on, each under a version of its own.
INSERT INTO {table:Identifier}
SELECT * REPLACE (day - toIntervalDay(n * {every:UInt32}) AS day, ver - n AS ver)
FROM {table:Identifier} ARRAY JOIN range(1, {times:UInt32} + 1) AS n
WHERE ver IN (SELECT max(ver) FROM folds WHERE kind = 'day' AND slot < today() GROUP BY slot);

-- @copied_days
INSERT INTO folds (kind, slot, ver)
SELECT 'day', day - toIntervalDay(n * {every:UInt32}), newest - n
FROM (SELECT slot AS day, max(ver) AS newest FROM folds WHERE kind = 'day' AND slot < today() GROUP BY slot)
ARRAY JOIN range(1, {times:UInt32} + 1) AS n;

-- @outdate_answers
-- A fold of a day that no question is about: all answers are of an older version.
INSERT INTO folds (kind, slot, ver)
SELECT 'day', today() - INTERVAL 150 DAY, toUnixTimestamp64Micro(now64(6));

-- @drop_served
DROP TABLE bench_served;

-- @drop_devices
DROP TABLE bench_devices;
