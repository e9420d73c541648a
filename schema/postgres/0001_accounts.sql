-- People, credentials, projects, and the log of what people did.
--
-- Names of constraints are part of the program: `api/src/error.rs` maps them to
-- answers. Texts are capped by the API; the checks here keep what every reader
-- relies on.

create table users (
    id bigint generated always as identity primary key,
    -- Trimmed and lower-cased.
    email text not null constraint users_email_key unique,
    name text not null,
    -- Informational, instance-wide; authorization goes by memberships.role.
    role text not null default 'viewer',
    -- Argon2id, PHC string. Null: invited, not yet activated.
    password_hash text,
    is_active boolean not null default true,
    -- SHA-256 in hex of the invite token.
    invite_token_hash text constraint users_invite_token_key unique,
    invite_expires_at timestamptz,
    created_at timestamptz not null default now()
);

create table projects (
    id bigint generated always as identity primary key,
    uuid uuid not null default gen_random_uuid() constraint projects_uuid_key unique,
    name text not null,
    slug text not null constraint projects_slug_key unique
        constraint projects_slug_check check (slug ~ '^[a-z0-9]([a-z0-9-]*[a-z0-9])?$' and length(slug) <= 63),
    created_at timestamptz not null default now()
);

create table memberships (
    project_id bigint not null references projects (id) on delete cascade,
    user_id bigint not null references users (id) on delete cascade,
    role text not null constraint memberships_role_check check (role in ('viewer', 'editor', 'admin')),
    created_at timestamptz not null default now(),
    constraint memberships_pkey primary key (project_id, user_id)
);
create index memberships_user_idx on memberships (user_id, project_id);

create table sessions (
    -- SHA-256 in hex of the token.
    token_hash text primary key,
    user_id bigint not null references users (id) on delete cascade,
    created_at timestamptz not null default now(),
    expires_at timestamptz not null
);
create index sessions_user_idx on sessions (user_id);
create index sessions_expires_idx on sessions (expires_at);

create table api_keys (
    id bigint generated always as identity primary key,
    project_id bigint not null references projects (id) on delete cascade,
    name text not null,
    -- SHA-256 in hex of the whole key.
    key_hash text not null constraint api_keys_hash_key unique,
    key_prefix text not null,
    -- `publishable` may ship inside apps: device routes only.
    role text not null default 'editor'
        constraint api_keys_role_check check (role in ('publishable', 'viewer', 'editor', 'admin')),
    is_active boolean not null default true,
    created_at timestamptz not null default now(),
    -- About a minute exact.
    last_used_at timestamptz
);
create index api_keys_project_idx on api_keys (project_id, created_at desc, id desc);

-- Append-only. No reference to projects: that a project was deleted, and by
-- whom, outlives it.
create table audit_log (
    id bigint generated always as identity primary key,
    project_id bigint not null,
    action text not null,
    entity_type text not null,
    entity_id bigint,
    details jsonb not null default '{}',
    -- Null: the system. Id and name are copies, so that deleting an account or a
    -- key does not erase who acted.
    actor_type text constraint audit_log_actor_check check (actor_type in ('user', 'api_key')),
    actor_id bigint,
    actor_name text,
    created_at timestamptz not null default now()
);
create index audit_log_project_idx on audit_log (project_id, id desc);
create index audit_log_entity_idx on audit_log (project_id, entity_type, entity_id, id desc);
create index audit_log_published_idx on audit_log (project_id, ((details ->> 'updateId')), id desc)
    where action = 'build.published';

-- What the edge's directory holds in memory; it listens and reads again.
create function sluice_notify_directory() returns trigger language plpgsql as $$
begin
    perform pg_notify('sluice_directory', tg_table_name);
    return null;
end $$;

create trigger projects_directory after insert or delete or update of slug, uuid on projects
    for each statement execute function sluice_notify_directory();
create trigger memberships_directory after insert or delete or update on memberships
    for each statement execute function sluice_notify_directory();
create trigger sessions_directory after insert or delete or update on sessions
    for each statement execute function sluice_notify_directory();
-- Not for last_used_at, which moves all the time.
create trigger api_keys_directory after insert or delete or update of key_hash, role, is_active on api_keys
    for each statement execute function sluice_notify_directory();
create trigger users_directory after delete or update of is_active on users
    for each statement execute function sluice_notify_directory();
