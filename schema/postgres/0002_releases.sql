-- What is shipped: branches, channels, stored files, builds, updates.
--
-- Every table that another one of the same project refers to has a key
-- (project_id, …), and the reference goes over both columns: the database
-- itself refuses a reference into another project.

create table branches (
    id bigint generated always as identity primary key,
    project_id bigint not null references projects (id) on delete cascade,
    name text not null,
    created_at timestamptz not null default now(),
    constraint branches_name_key unique (project_id, name)
);

create table channels (
    id bigint generated always as identity primary key,
    project_id bigint not null references projects (id) on delete cascade,
    name text not null,
    branch_name text not null,
    rollout_branch_name text,
    -- Share of the devices that go to the rollout branch.
    rollout_percentage int not null default 0
        constraint channels_rollout_percentage_check check (rollout_percentage between 0 and 100),
    min_runtime_version text,
    created_at timestamptz not null default now(),
    constraint channels_name_key unique (project_id, name),
    constraint channels_branch_fkey foreign key (project_id, branch_name)
        references branches (project_id, name),
    constraint channels_rollout_branch_fkey foreign key (project_id, rollout_branch_name)
        references branches (project_id, name)
);
create index channels_branch_idx on channels (project_id, branch_name);
create index channels_rollout_branch_idx on channels (project_id, rollout_branch_name);

-- The app's own user ids (header expo-user-id), not accounts of this service.
create table user_overrides (
    id bigint generated always as identity primary key,
    project_id bigint not null references projects (id) on delete cascade,
    user_id text not null,
    branch_name text not null,
    note text,
    created_at timestamptz not null default now(),
    constraint user_overrides_user_key unique (project_id, user_id),
    constraint user_overrides_branch_fkey foreign key (project_id, branch_name)
        references branches (project_id, name)
);
create index user_overrides_branch_idx on user_overrides (project_id, branch_name);

-- A stored file, once per project and content. A row means that the whole
-- object is in the store.
create table blobs (
    id bigint generated always as identity primary key,
    project_id bigint not null references projects (id) on delete cascade,
    -- Handle on the wire, and path in the object store. Never used again.
    storage_key text not null constraint blobs_storage_key unique,
    -- base64url without padding.
    sha256 text not null,
    -- Lower-case hex; the asset key in manifests, never an identity.
    md5 text not null,
    size_bytes bigint not null constraint blobs_size_check check (size_bytes >= 0),
    -- Of the first upload; what the file is served as.
    content_type text not null,
    -- The last upload of this content, or the end of a reference to it: gc spares
    -- it for a while after.
    needed_at timestamptz not null default now(),
    constraint blobs_content_key unique (project_id, sha256),
    constraint blobs_project_key unique (project_id, id)
);

-- Objects that may be in the store though no blob owns them: uploads under way,
-- and what is to be removed. Belongs to no project: it outlives them.
create table unowned_objects (
    storage_key text primary key,
    -- An upload that is still under way by then has failed.
    delete_after timestamptz not null,
    -- About to be removed: no upload may own it any more.
    doomed boolean not null default false
);
create index unowned_objects_due_idx on unowned_objects (delete_after);

-- Whoever deletes a blob, also by deleting its project, leaves its object to be removed.
create function sluice_disown_object() returns trigger language plpgsql as $$
begin
    insert into unowned_objects (storage_key, delete_after, doomed)
    values (old.storage_key, '-infinity', true)
    on conflict do nothing;
    return null;
end $$;
create trigger blobs_disowned after delete on blobs
    for each row execute function sluice_disown_object();

create table builds (
    id bigint generated always as identity primary key,
    project_id bigint not null references projects (id) on delete cascade,
    build_uuid uuid not null default gen_random_uuid() constraint builds_uuid_key unique,
    runtime_version text not null,
    runtime_fingerprint text,
    platform text not null constraint builds_platform_check check (platform in ('ios', 'android')),
    git_commit_hash text,
    git_branch text,
    ci_run_url text,
    message text not null default '',
    expo_config jsonb not null default '{}',
    created_at timestamptz not null default now(),
    constraint builds_project_key unique (project_id, id)
);
create index builds_newest_idx on builds (project_id, created_at desc, id desc);

create table build_assets (
    id bigint generated always as identity primary key,
    project_id bigint not null,
    build_id bigint not null,
    blob_id bigint not null,
    file_name text not null,
    file_extension text not null,
    content_type text not null,
    is_launch_asset boolean not null,
    constraint build_assets_build_fkey foreign key (project_id, build_id)
        references builds (project_id, id) on delete cascade,
    constraint build_assets_blob_fkey foreign key (project_id, blob_id)
        references blobs (project_id, id)
);
create unique index build_assets_launch_key on build_assets (build_id) where is_launch_asset;
create index build_assets_build_idx on build_assets (build_id);
create index build_assets_blob_idx on build_assets (project_id, blob_id);

create table updates (
    id bigint generated always as identity primary key,
    project_id bigint not null references projects (id) on delete cascade,
    update_uuid uuid not null default gen_random_uuid() constraint updates_uuid_key unique,
    build_id bigint,
    runtime_version text not null,
    runtime_fingerprint text,
    platform text not null constraint updates_platform_check check (platform in ('ios', 'android')),
    channel text not null,
    -- Resolved when published. No reference: branches may be implicit, and go.
    branch_name text,
    is_rollback boolean not null default false,
    -- Null on a rollback: to the bundle inside the app.
    rollback_to_update_id bigint,
    -- Set on the rows that reverting a release makes: for its devices alone.
    rollback_from_group_id text,
    rollout_percentage int not null default 100
        constraint updates_rollout_percentage_check check (rollout_percentage between 0 and 100),
    is_critical boolean not null default false,
    is_enabled boolean not null default true,
    release_message text not null default '',
    expo_config jsonb not null default '{}',
    group_id text not null,
    created_at timestamptz not null default now(),
    constraint updates_project_key unique (project_id, id),
    constraint updates_build_fkey foreign key (project_id, build_id)
        references builds (project_id, id),
    constraint updates_rollback_target_fkey foreign key (project_id, rollback_to_update_id)
        references updates (project_id, id)
);
create index updates_newest_idx on updates (project_id, created_at desc, id desc);
create index updates_serving_idx on updates (project_id, branch_name, platform, created_at desc, id desc);
create index updates_group_idx on updates (project_id, group_id, channel);
create index updates_build_idx on updates (project_id, build_id);
create index updates_rollback_target_idx on updates (project_id, rollback_to_update_id);

create table update_assets (
    id bigint generated always as identity primary key,
    project_id bigint not null,
    update_id bigint not null,
    blob_id bigint not null,
    file_extension text not null,
    content_type text not null,
    is_launch_asset boolean not null,
    constraint update_assets_update_fkey foreign key (project_id, update_id)
        references updates (project_id, id) on delete cascade,
    constraint update_assets_blob_fkey foreign key (project_id, blob_id)
        references blobs (project_id, id)
);
create unique index update_assets_launch_key on update_assets (update_id) where is_launch_asset;
create index update_assets_update_idx on update_assets (update_id);
create index update_assets_blob_idx on update_assets (project_id, blob_id);
