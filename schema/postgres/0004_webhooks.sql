-- Webhooks and their outbox: a delivery row is written in the transaction of
-- the change it tells of, and sent by workers that claim due rows.

create table webhooks (
    id bigint generated always as identity primary key,
    project_id bigint not null references projects (id) on delete cascade,
    url text not null,
    events text[] not null,
    is_active boolean not null default true,
    secret text,
    -- Still signs until then, for receivers that have not switched.
    previous_secret text,
    previous_secret_until timestamptz,
    -- Since when every attempt has failed; null after a success.
    failing_since timestamptz,
    created_at timestamptz not null default now(),
    constraint webhooks_project_key unique (project_id, id)
);
create index webhooks_newest_idx on webhooks (project_id, created_at desc, id desc);

create table webhook_deliveries (
    id bigint generated always as identity primary key,
    project_id bigint not null,
    webhook_id bigint not null,
    event text not null,
    -- The exact bytes of every attempt.
    body text not null,
    status text not null default 'pending'
        constraint webhook_deliveries_status_check check (status in ('pending', 'success', 'failed')),
    http_status int,
    response_body text,
    error_message text,
    -- Attempts started.
    attempt int not null default 0,
    -- When it is due; null once it is settled.
    next_attempt_at timestamptz,
    -- A worker has it until then; after that the worker is taken for dead.
    claimed_until timestamptz,
    created_at timestamptz not null default now(),
    completed_at timestamptz,
    constraint webhook_deliveries_webhook_fkey foreign key (project_id, webhook_id)
        references webhooks (project_id, id) on delete cascade
);
create index webhook_deliveries_due_idx on webhook_deliveries (next_attempt_at) where status = 'pending';
create index webhook_deliveries_newest_idx on webhook_deliveries (webhook_id, created_at desc, id desc);
create index webhook_deliveries_age_idx on webhook_deliveries (created_at);

-- Wakes the workers; they poll besides.
create function sluice_notify_webhooks() returns trigger language plpgsql as $$
begin
    perform pg_notify('sluice_webhooks', '');
    return null;
end $$;
create trigger webhook_deliveries_due after insert on webhook_deliveries
    for each statement execute function sluice_notify_webhooks();
