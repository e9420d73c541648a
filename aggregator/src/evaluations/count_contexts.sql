with
-- Nothing below happens unless the position is where it was expected.
moved as (
    insert into context_positions as p (source, log_partition, next_offset) values ($1, $2, $4)
    on conflict on constraint context_positions_pkey
        do update set next_offset = excluded.next_offset where p.next_offset = $3
    returning true
),
context as (
    select reported.*
    from unnest($5::bigint[], $6::text[], $7::text[], $8::text[], $9::text[], $10::timestamptz[], $11::timestamptz[])
        with ordinality as reported (project_id, kind, targeting_key, name, attributes, first_at, last_at, number)
    join projects on projects.id = reported.project_id
    where exists (select from moved)
),
-- Entries of unknown flags are skipped.
entry as (
    select reported.*, flags.id as flag_id
    from unnest($12::bigint[], $13::text[], $14::text[], $15::text[], $16::bigint[], $17::timestamptz[])
        as reported (number, flag_key, channel, value, count, evaluated_at)
    join context using (number)
    join flags on flags.project_id = context.project_id and flags.key = reported.flag_key
),
total as (
    select number, least(sum(count), $18::bigint)::bigint as count from entry group by number
),
seen as (
    insert into contexts as c
        (project_id, kind, targeting_key, name, attributes, first_seen_at, last_seen_at, evaluation_count)
    select project_id, kind, targeting_key, name, attributes::jsonb, first_at, last_at, coalesce(total.count, 0)
    from context left join total using (number)
    order by project_id, kind, targeting_key
    on conflict on constraint contexts_key_key do update set
        name = coalesce(excluded.name, c.name),
        attributes = excluded.attributes,
        first_seen_at = least(c.first_seen_at, excluded.first_seen_at),
        last_seen_at = greatest(c.last_seen_at, excluded.last_seen_at),
        evaluation_count = least(c.evaluation_count + excluded.evaluation_count, $18::bigint)
    returning id, project_id, kind, targeting_key
),
evaluated as (
    insert into context_evaluations as e
        (context_id, flag_id, channel_name, variation_value, evaluation_count, last_evaluated_at)
    select seen.id, entry.flag_id, nullif(entry.channel, ''), entry.value::jsonb, entry.count, entry.evaluated_at
    from entry
    join context using (number)
    join seen using (project_id, kind, targeting_key)
    order by seen.id, entry.flag_id
    on conflict (context_id, flag_id, (coalesce(channel_name, ''))) do update set
        variation_value = excluded.variation_value,
        evaluation_count = least(e.evaluation_count + excluded.evaluation_count, $18::bigint),
        last_evaluated_at = greatest(e.last_evaluated_at, excluded.last_evaluated_at)
    returning true
)
select exists (select from moved)
