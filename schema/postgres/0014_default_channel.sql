-- What views treat the channel `default` as, under which apps that set none
-- report health (telemetry.md §2.9).

-- Null: as a channel like any other.
alter table projects add column treat_default_channel_as text
    constraint projects_treat_default_channel_as_check
    check (treat_default_channel_as <> 'default' and treat_default_channel_as ~ '\S');
