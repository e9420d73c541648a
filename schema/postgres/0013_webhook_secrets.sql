-- A secret that is replaced goes on signing for a day, however often it is
-- replaced in that day: receivers may have any of them.

create table webhook_former_secrets (
    id bigint generated always as identity primary key,
    project_id bigint not null,
    webhook_id bigint not null,
    secret text not null,
    signs_until timestamptz not null,
    constraint webhook_former_secrets_webhook_fkey foreign key (project_id, webhook_id)
        references webhooks (project_id, id) on delete cascade
);
create index webhook_former_secrets_webhook_idx on webhook_former_secrets (webhook_id, id desc);

insert into webhook_former_secrets (project_id, webhook_id, secret, signs_until)
select project_id, id, previous_secret, previous_secret_until from webhooks
where previous_secret is not null and previous_secret_until is not null;
alter table webhooks drop column previous_secret, drop column previous_secret_until;
