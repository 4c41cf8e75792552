-- Schema pgq_ext: what consumers of queues in other databases have done here.
--
-- A consumer notes the batch, event or tick in the transaction that has the effects; after a crash it
-- asks here before it does anything twice. subconsumer_id is '' for those that have none.

create schema if not exists pgq_ext;
grant usage on schema pgq_ext to public;

create table if not exists pgq_ext.completed_tick (
    consumer_id     text    not null,
    subconsumer_id  text    not null default '',
    last_tick_id    bigint  not null,
    constraint completed_tick_pkey primary key (consumer_id, subconsumer_id)
) with (fillfactor = 50, autovacuum_vacuum_threshold = 200, autovacuum_vacuum_scale_factor = 0);

create table if not exists pgq_ext.completed_batch (
    consumer_id     text    not null,
    subconsumer_id  text    not null default '',
    last_batch_id   bigint  not null,
    constraint completed_batch_pkey primary key (consumer_id, subconsumer_id)
) with (fillfactor = 50, autovacuum_vacuum_threshold = 200, autovacuum_vacuum_scale_factor = 0);

-- Events done of the batch that is half done: cur_batch_id of partial_batch.
create table if not exists pgq_ext.completed_event (
    consumer_id     text    not null,
    subconsumer_id  text    not null default '',
    batch_id        bigint  not null,
    event_id        bigint  not null,
    constraint completed_event_pkey primary key (consumer_id, subconsumer_id, batch_id, event_id)
);

create table if not exists pgq_ext.partial_batch (
    consumer_id     text    not null,
    subconsumer_id  text    not null default '',
    cur_batch_id    bigint  not null,
    constraint partial_batch_pkey primary key (consumer_id, subconsumer_id)
);
