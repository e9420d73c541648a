-- Feature flags, segments, contexts, and the flags linked to a release.

create table flags (
    id bigint generated always as identity primary key,
    project_id bigint not null references projects (id) on delete cascade,
    key text not null,
    name text not null,
    flag_type text not null
        constraint flags_type_check check (flag_type in ('boolean', 'string', 'number', 'json')),
    default_value jsonb not null,
    enabled boolean not null default true,
    -- When `enabled` last changed; decides against a channel's own switch.
    enabled_changed_at timestamptz not null default now(),
    description text,
    created_by_name text,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    constraint flags_key_key unique (project_id, key),
    constraint flags_project_key unique (project_id, id)
);

create table flag_variations (
    id bigint generated always as identity primary key,
    project_id bigint not null,
    flag_id bigint not null,
    value jsonb not null,
    name text,
    description text,
    sort_order int not null,
    created_at timestamptz not null default now(),
    constraint flag_variations_flag_fkey foreign key (project_id, flag_id)
        references flags (project_id, id) on delete cascade,
    constraint flag_variations_flag_key unique (flag_id, id)
);

-- What a channel says differently. A part that is null follows the flag.
create table flag_env_settings (
    id bigint generated always as identity primary key,
    project_id bigint not null,
    flag_id bigint not null,
    channel_name text not null,
    enabled boolean,
    enabled_changed_at timestamptz,
    default_value jsonb,
    created_at timestamptz not null default now(),
    constraint flag_env_settings_flag_fkey foreign key (project_id, flag_id)
        references flags (project_id, id) on delete cascade,
    constraint flag_env_settings_channel_key unique (flag_id, channel_name)
);

create table flag_rules (
    id bigint generated always as identity primary key,
    project_id bigint not null,
    flag_id bigint not null,
    -- Lower runs first.
    priority int not null default 0,
    rule_type text not null constraint flag_rules_type_check check (
        rule_type in ('user_list', 'percentage_rollout', 'attribute', 'segment', 'ota_update', 'force')),
    -- Null only for percentage_rollout.
    variant_value jsonb,
    -- Canonical form, flags.md §4.
    rule_config jsonb not null default '{}',
    -- Null: every channel.
    channel_name text,
    created_at timestamptz not null default now(),
    constraint flag_rules_flag_fkey foreign key (project_id, flag_id)
        references flags (project_id, id) on delete cascade
);
create index flag_rules_flag_idx on flag_rules (flag_id, priority, id);
create index flag_rules_segment_idx on flag_rules (project_id, ((rule_config ->> 'segmentKey')))
    where rule_type = 'segment';

create table segments (
    id bigint generated always as identity primary key,
    project_id bigint not null references projects (id) on delete cascade,
    key text not null,
    name text not null,
    description text not null default '',
    match_type text not null constraint segments_match_type_check check (match_type in ('all', 'any')),
    -- Contexts seen in the last 30 days that match; refreshed now and then.
    estimated_devices bigint not null default 0,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    constraint segments_key_key unique (project_id, key),
    constraint segments_project_key unique (project_id, id)
);

create table segment_conditions (
    id bigint generated always as identity primary key,
    project_id bigint not null,
    segment_id bigint not null,
    attribute text not null,
    operator text not null,
    condition_values text[] not null,
    sort_order int not null,
    constraint segment_conditions_segment_fkey foreign key (project_id, segment_id)
        references segments (project_id, id) on delete cascade
);
create index segment_conditions_segment_idx on segment_conditions (segment_id, sort_order);

-- A flag attached to a release when it was published (rollouts.md §7).
create table release_links (
    id bigint generated always as identity primary key,
    project_id bigint not null,
    group_id text not null,
    channel text not null,
    flag_id bigint not null,
    link_type text not null default 'kill_switch'
        constraint release_links_type_check check (link_type in ('kill_switch', 'gate', 'monitor')),
    enabled boolean not null,
    variation_id bigint,
    state text not null default 'active'
        constraint release_links_state_check check (state in ('active', 'reverted', 'rolled_back', 'handed_off')),
    created_at timestamptz not null default now(),
    constraint release_links_flag_fkey foreign key (project_id, flag_id)
        references flags (project_id, id) on delete cascade,
    constraint release_links_variation_fkey foreign key (flag_id, variation_id)
        references flag_variations (flag_id, id),
    constraint release_links_flag_key unique (project_id, group_id, channel, flag_id)
);

-- Subjects of evaluations; written in batches by the pipeline, and by hand.
create extension if not exists pg_trgm;

-- Keys and values of a context, for a search by substring.
create function sluice_context_text(targeting_key text, name text, attributes jsonb) returns text
language sql immutable parallel safe as $$
    select lower(concat_ws(e'\n', targeting_key, name,
        (select string_agg(concat_ws(e'\n', a.key, a.value), e'\n') from jsonb_each_text(attributes) a)))
$$;

create table contexts (
    id bigint generated always as identity primary key,
    project_id bigint not null references projects (id) on delete cascade,
    kind text not null constraint contexts_kind_check check (
        kind in ('user', 'device', 'organization', 'service', 'environment')),
    targeting_key text not null,
    name text,
    attributes jsonb not null default '{}'
        constraint contexts_attributes_check check (jsonb_typeof(attributes) = 'object'),
    first_seen_at timestamptz not null default now(),
    last_seen_at timestamptz not null default now(),
    evaluation_count bigint not null default 0,
    search_text text generated always as (sluice_context_text(targeting_key, name, attributes)) stored,
    constraint contexts_key_key unique (project_id, kind, targeting_key)
);
create index contexts_last_seen_idx on contexts (project_id, last_seen_at desc, id desc);
create index contexts_search_idx on contexts using gin (search_text gin_trgm_ops);

-- The latest value of a flag for a context in a channel, and how often it was asked for.
create table context_evaluations (
    id bigint generated always as identity primary key,
    context_id bigint not null references contexts (id) on delete cascade,
    flag_id bigint not null references flags (id) on delete cascade,
    channel_name text,
    variation_value jsonb,
    evaluation_count bigint not null default 0,
    last_evaluated_at timestamptz not null
);
-- Nulls are distinct in a unique constraint; without a channel is one slot here.
create unique index context_evaluations_slot_key
    on context_evaluations (context_id, flag_id, (coalesce(channel_name, '')));
create index context_evaluations_flag_idx on context_evaluations (flag_id);

-- Whatever decides an evaluation: the payload is the project's id. Postgres
-- folds equal notifications of a transaction into one.
create function sluice_notify_flags() returns trigger language plpgsql as $$
begin
    perform pg_notify('sluice_flags', coalesce(new.project_id, old.project_id)::text);
    return null;
end $$;

create trigger flags_changed after insert or update or delete on flags
    for each row execute function sluice_notify_flags();
create trigger flag_variations_changed after insert or update or delete on flag_variations
    for each row execute function sluice_notify_flags();
create trigger flag_env_settings_changed after insert or update or delete on flag_env_settings
    for each row execute function sluice_notify_flags();
create trigger flag_rules_changed after insert or update or delete on flag_rules
    for each row execute function sluice_notify_flags();
create trigger segments_changed after insert or delete or update of key, match_type on segments
    for each row execute function sluice_notify_flags();
create trigger segment_conditions_changed after insert or update or delete on segment_conditions
    for each row execute function sluice_notify_flags();
create trigger release_links_changed after insert or update or delete on release_links
    for each row execute function sluice_notify_flags();
create trigger channels_changed after insert or update or delete on channels
    for each row execute function sluice_notify_flags();
create trigger user_overrides_changed after insert or update or delete on user_overrides
    for each row execute function sluice_notify_flags();
-- A link follows its update, and `ota.branch` is an update's branch.
create trigger updates_changed after insert or delete or update of is_enabled, branch_name on updates
    for each row execute function sluice_notify_flags();
