-- Lists read what belongs to all flags, or all segments, of a project at once.

create index flag_variations_project_idx on flag_variations (project_id, flag_id);
create index flag_env_settings_project_idx on flag_env_settings (project_id, flag_id);
create index flag_rules_project_idx on flag_rules (project_id, flag_id);
create index segment_conditions_project_idx on segment_conditions (project_id, segment_id);
-- What goes with a flag.
create index release_links_flag_idx on release_links (project_id, flag_id);
