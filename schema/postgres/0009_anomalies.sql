-- Anomalies of what devices report (telemetry.md §6), as the API's watch finds
-- and follows them.

create table anomalies (
    id bigint generated always as identity primary key,
    project_id bigint not null references projects (id) on delete cascade,
    type text not null constraint anomalies_type_check check (
        type in ('crash_spike', 'error_spike', 'latency_spike', 'adoption_drop')),
    channel text not null,
    severity text not null
        constraint anomalies_severity_check check (severity in ('info', 'warning', 'critical')),
    -- Open until it is healthy.
    status text not null
        constraint anomalies_status_check check (status in ('healthy', 'degraded', 'incident')),
    detected_at timestamptz not null,
    -- As at its worst so far, down to `platforms`.
    description text not null,
    -- Errors, crashes or samples of the hour.
    event_count bigint not null,
    -- Distinct devices with one of them.
    affected_devices bigint not null,
    -- Those with a tenth of them at least, by name.
    platforms text[] not null,
    -- Copies, which outlive the flag and the update.
    flag_id bigint,
    flag_key text,
    flag_variation text,
    update_id bigint,
    update_runtime_version text,
    -- The beginning of the first quiet hour since the last that was not.
    quiet_since timestamptz,
    constraint anomalies_flag_check check (num_nulls(flag_id, flag_key, flag_variation) in (0, 3)),
    constraint anomalies_update_check check (num_nulls(update_id, update_runtime_version) in (0, 2))
);
create unique index anomalies_open_key on anomalies (project_id, type, channel) where status <> 'healthy';
create unique index anomalies_hour_key on anomalies
    (project_id, type, channel, (date_trunc('hour', detected_at at time zone 'UTC')));
create index anomalies_newest_idx on anomalies (project_id, detected_at desc, id desc);
create index anomalies_age_idx on anomalies (detected_at);

-- One row. Whoever holds it watches; the others pass.
create table anomaly_watch (
    only_row boolean primary key default true constraint anomaly_watch_only_row_check check (only_row),
    -- The beginning of the last round that was finished.
    ran_at timestamptz
);
insert into anomaly_watch default values;
