-- Projects whose numbers are to go from ClickHouse as well (telemetry.md §9).
-- Belongs to no project: it outlives them.

create table deleted_projects (
    project_id bigint primary key,
    deleted_at timestamptz not null default now(),
    -- The last look at what is left. What was in the log, or on an edge's disk,
    -- may come after it.
    purged_at timestamptz
);

-- Whoever deletes a project leaves its number here.
create function sluice_remember_deleted_project() returns trigger language plpgsql as $$
begin
    insert into deleted_projects (project_id) values (old.id) on conflict do nothing;
    return null;
end $$;
create trigger projects_remembered after delete on projects
    for each row execute function sluice_remember_deleted_project();
