-- Days by update are asked for as far back as all others, and the days before
-- them, too (telemetry.md §5.7 and §9: 13 months).

ALTER TABLE daily_maps MODIFY TTL day + INTERVAL 13 MONTH DELETE;
