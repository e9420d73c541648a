-- Contexts as devices report them.

-- Devices may report any kind; people make only those of the API.
alter table contexts drop constraint contexts_kind_check;
alter table contexts add constraint contexts_kind_check check (octet_length(kind) between 1 and 64);

-- How far into each partition of the evaluations log contexts are counted. It
-- moves with them in one statement, so that no report counts twice.
create table context_positions (
    -- Topic and incarnation of the log.
    source text not null,
    log_partition int not null,
    -- Reports below are counted.
    next_offset bigint not null,
    constraint context_positions_pkey primary key (source, log_partition)
);
