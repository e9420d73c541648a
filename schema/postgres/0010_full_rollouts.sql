-- Since when an update goes to every device of its own: without it an update
-- that nobody takes cannot be told from one that is on its way (telemetry.md
-- §6, adoption_drop). Kept here, because rollouts, patches and republishing all
-- write these two columns.

-- Null while it does not.
alter table updates add column full_since timestamptz;

-- Of those that are there nobody knows it; that it is so from now on is true.
update updates set full_since = now() where is_enabled and rollout_percentage = 100;

create function sluice_follow_full_rollout() returns trigger language plpgsql as $$
begin
    if not (new.is_enabled and new.rollout_percentage = 100) then
        new.full_since := null;
    elsif new.full_since is null then
        new.full_since := case when tg_op = 'INSERT' then new.created_at else now() end;
    end if;
    return new;
end $$;
create trigger updates_full_rollout before insert or update of is_enabled, rollout_percentage on updates
    for each row execute function sluice_follow_full_rollout();

-- The candidates of the watch.
create index updates_full_idx on updates (full_since) where full_since is not null;
