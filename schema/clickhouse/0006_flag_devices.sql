-- Distinct devices of flag rows as places (sluice_schema::clickhouse::places)
-- instead of states: what a read puts together out of thousands of small sets
-- is cheap to put together outside (docs/decisions/0052).

ALTER TABLE hourly_maps ADD COLUMN IF NOT EXISTS D Array(UInt32) CODEC(Delta(4), ZSTD(1)), ADD COLUMN IF NOT EXISTS DE Array(UInt32) CODEC(Delta(4), ZSTD(1));

ALTER TABLE hourly_maps DROP COLUMN IF EXISTS U, DROP COLUMN IF EXISTS UE;

ALTER TABLE hourly_flags ADD COLUMN IF NOT EXISTS D Array(UInt32) CODEC(Delta(4), ZSTD(1)), ADD COLUMN IF NOT EXISTS DE Array(UInt32) CODEC(Delta(4), ZSTD(1));

ALTER TABLE hourly_flags DROP COLUMN IF EXISTS U, DROP COLUMN IF EXISTS UE;

ALTER TABLE daily_flags ADD COLUMN IF NOT EXISTS D Array(UInt32) CODEC(Delta(4), ZSTD(1)), ADD COLUMN IF NOT EXISTS DE Array(UInt32) CODEC(Delta(4), ZSTD(1));

ALTER TABLE daily_flags DROP COLUMN IF EXISTS U, DROP COLUMN IF EXISTS UE;

ALTER TABLE daily_maps ADD COLUMN IF NOT EXISTS D Array(UInt32) CODEC(Delta(4), ZSTD(1)), ADD COLUMN IF NOT EXISTS DE Array(UInt32) CODEC(Delta(4), ZSTD(1));

ALTER TABLE daily_maps DROP COLUMN IF EXISTS U, DROP COLUMN IF EXISTS UE;

ALTER TABLE hourly_maps_now ADD COLUMN IF NOT EXISTS D Array(UInt32) CODEC(Delta(4), ZSTD(1)), ADD COLUMN IF NOT EXISTS DE Array(UInt32) CODEC(Delta(4), ZSTD(1));

ALTER TABLE hourly_maps_now DROP COLUMN IF EXISTS U, DROP COLUMN IF EXISTS UE;

-- What was folded without places is folded again, as far back as there are
-- surely all device-hours of a day.
DELETE FROM folds WHERE kind IN ('hour', 'day') AND slot >= toStartOfDay(now('UTC')) - INTERVAL 6 DAY AND ver < toUnixTimestamp64Micro(now64(6)) - 1000000;
