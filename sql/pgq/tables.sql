-- Schema pgq: queues, their consumers and ticks.
--
-- A queue's events live in three child tables of event_template that take turns; a tick stores a
-- snapshot; a batch is what became visible between two ticks. No event row is ever updated.

create schema if not exists pgq;
grant usage on schema pgq to public;

-- Which Skytide module this database has. Kept by the installer.
--   module        pgq, pgq_node, londiste
--   version       the program that installed it
--   checksum      of the module's scripts, so that an unchanged module is left alone
--   catalog       of the functions as they came out, so that a later change is noticed
create table if not exists pgq.skytide_module (
    module          text        not null,
    version         text        not null,
    checksum        text        not null,
    catalog         text        not null,
    installed_at    timestamptz not null default now(),
    constraint skytide_module_pkey primary key (module)
);

-- One row a queue.
--   queue_id                   forms the names of the queue's own tables and sequences
--   queue_ntables              how many event tables take turns
--   queue_cur_table            the one that receives events now
--   queue_rotation_period      how long the current table is used before the next one's turn
--   queue_switch_step1         transaction that switched tables last
--   queue_switch_step2         later transaction that saw the switch committed; null while it is due
--   queue_switch_time          when the last switch was
--   queue_external_ticker      ticks are given by pgq.ticker(4) only, as on a branch
--   queue_disable_insert       only sessions with session_replication_role = replica may insert
--   queue_ticker_paused        no ticks at all
--   queue_ticker_max_count     tick after this many events
--   queue_ticker_max_lag       tick when there are events and the last tick is this old
--   queue_ticker_idle_period   longest time between ticks without events
--   queue_per_tx_limit         most events one transaction may insert; null or negative: no limit
--   queue_data_pfx, queue_event_seq, queue_tick_seq   names of the queue's objects, unquoted
--   queue_extra_maint          functions that maintenance calls with the queue's name
create table if not exists pgq.queue (
    queue_id                    serial,
    queue_name                  text        not null,
    queue_ntables               integer     not null default 3,
    queue_cur_table             integer     not null default 0,
    queue_rotation_period       interval    not null default '2 hours',
    queue_switch_step1          bigint      not null default txid_current(),
    queue_switch_step2          bigint               default txid_current(),
    queue_switch_time           timestamptz not null default now(),
    queue_external_ticker       boolean     not null default false,
    queue_disable_insert        boolean     not null default false,
    queue_ticker_paused         boolean     not null default false,
    queue_ticker_max_count      integer     not null default 500,
    queue_ticker_max_lag        interval    not null default '3 seconds',
    queue_ticker_idle_period    interval    not null default '1 minute',
    queue_per_tx_limit          integer,
    queue_data_pfx              text        not null,
    queue_event_seq             text        not null,
    queue_tick_seq              text        not null,
    queue_extra_maint           text[],
    constraint queue_pkey primary key (queue_id),
    constraint queue_name_uq unique (queue_name)
);

-- Names of consumers, shared by all queues. A row goes with its last subscription.
create table if not exists pgq.consumer (
    co_id       serial,
    co_name     text not null,
    constraint consumer_pkey primary key (co_id),
    constraint consumer_name_uq unique (co_name)
);

-- A tick: the line between two batches.
--   tick_snapshot    what is visible here, and not in the tick before, is the batch between them
--   tick_event_seq   the event sequence then: a hint how much happened, not a count
create table if not exists pgq.tick (
    tick_queue      integer         not null,
    tick_id         bigint          not null,
    tick_time       timestamptz     not null default now(),
    tick_snapshot   txid_snapshot   not null default txid_current_snapshot(),
    tick_event_seq  bigint          not null,
    constraint tick_pkey primary key (tick_queue, tick_id),
    constraint tick_queue_fkey foreign key (tick_queue) references pgq.queue (queue_id)
);

create sequence if not exists pgq.batch_id_seq;

-- A consumer's position in a queue. Updated twice a batch, so pages keep room for new row versions.
--   sub_id          owner of retried events; subconsumers of one group share it
--   sub_last_tick   last finished tick; null for a subconsumer that has nothing to do
--   sub_active      last registering, taking or finishing of a batch
--   sub_batch       open batch, which ends at sub_next_tick
create table if not exists pgq.subscription (
    sub_id          serial      not null,
    sub_queue       integer     not null,
    sub_consumer    integer     not null,
    sub_last_tick   bigint,
    sub_active      timestamptz not null default now(),
    sub_batch       bigint,
    sub_next_tick   bigint,
    constraint subscription_pkey primary key (sub_queue, sub_consumer),
    constraint subscription_batch_idx unique (sub_batch),
    constraint sub_queue_fkey foreign key (sub_queue) references pgq.queue (queue_id),
    constraint sub_consumer_fkey foreign key (sub_consumer) references pgq.consumer (co_id)
) with (fillfactor = 50, autovacuum_vacuum_threshold = 200, autovacuum_vacuum_scale_factor = 0);

-- Parent of every event table; holds no rows itself.
--   ev_id       from the queue's sequence. Not unique: a retried event keeps it
--   ev_txid     inserting top-level transaction, 64 bits
--   ev_owner    sub_id for which the event was retried; null: for everybody
--   ev_retry    how often it was retried; null: never
create table if not exists pgq.event_template (
    ev_id       bigint      not null,
    ev_time     timestamptz not null,
    ev_txid     bigint      not null default txid_current(),
    ev_owner    integer,
    ev_retry    integer,
    ev_type     text,
    ev_data     text,
    ev_extra1   text,
    ev_extra2   text,
    ev_extra3   text,
    ev_extra4   text
);

-- Events that wait for another try.
create table if not exists pgq.retry_queue (
    ev_retry_after  timestamptz not null,
    ev_queue        integer     not null,
    ev_id           bigint      not null,
    ev_time         timestamptz not null,
    ev_txid         bigint,
    ev_owner        integer     not null,
    ev_retry        integer,
    ev_type         text,
    ev_data         text,
    ev_extra1       text,
    ev_extra2       text,
    ev_extra3       text,
    ev_extra4       text,
    constraint rq_pkey primary key (ev_owner, ev_id),
    constraint rq_queue_id_fkey foreign key (ev_queue) references pgq.queue (queue_id)
);
create index if not exists rq_retry_idx on pgq.retry_queue (ev_retry_after);

-- Rows of so many text columns, for pgq._row_values.
do $$
declare
    l_columns   integer;
begin
    foreach l_columns in array array[8, 16, 48, 256, 1600] loop
        if to_regtype('pgq._row_' || l_columns) is null then
            execute format('create type pgq._row_%s as (%s)', l_columns,
                           (select string_agg(format('f%s text', f.nr), ', ' order by f.nr)
                              from generate_series(1, l_columns) as f (nr)));
        end if;
    end loop;
end;
$$;
