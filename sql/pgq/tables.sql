-- Schema pgq: queues, their consumers and ticks.
--
-- A queue's events live in three child tables of event_template that take turns; a tick stores a
-- snapshot; a batch is what became visible between two ticks. No event row is ever updated.

create schema if not exists pgq;
grant usage on schema pgq to public;

-- Which Skytide module this database has. Kept by the installer.
--   module        pgq, pgq_coop, pgq_ext, pgq_node, londiste
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
--   queue_max_retries          pgq.event_nack retries an event so often, then it is a dead letter; negative:
--                              no limit. pgq.event_retry knows no limit
--   queue_retry_delay          ... the first time after this time, which doubles with each ...
--   queue_retry_max_delay      ... up to this
--   queue_ticks_from           ticks whose snapshot begins before this transaction have lost their events, though an old
--                              snapshot keeps them from being deleted; null: there are none
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

-- Skytide's additions
alter table pgq.queue
    add column if not exists queue_max_retries      integer     not null default 5,
    add column if not exists queue_retry_delay      interval    not null default '10 seconds',
    add column if not exists queue_retry_max_delay  interval    not null default '1 hour',
    add column if not exists queue_ticks_from       bigint;

-- These are put into statements as they are, with the owner's rights, and pgq_admin may change them
do $$
begin
    if not exists (
        select 1 from pg_catalog.pg_constraint c
         where c.conrelid = 'pgq.queue'::regclass and c.conname = 'queue_objects_check')
    then
        alter table pgq.queue add constraint queue_objects_check check (
            queue_data_pfx ~ '^[a-z_][a-z0-9_]*[.][a-z_][a-z0-9_]*$' and queue_event_seq ~ '^[a-z_][a-z0-9_]*[.][a-z_][a-z0-9_]*$'
            and queue_tick_seq ~ '^[a-z_][a-z0-9_]*[.][a-z_][a-z0-9_]*$');
    end if;
end;
$$;

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
    constraint tick_pkey primary key (tick_queue, tick_id)
);

-- PgQ had a foreign key to the queue, which took a lock and WAL of the queue's row for each tick, a quarter of
-- its cost. pgq.drop_queue and whoever makes ticks have the queue's tick lock instead.
do $$
begin
    if exists (
        select 1 from pg_catalog.pg_constraint c
         where c.conrelid = 'pgq.tick'::regclass and c.conname = 'tick_queue_fkey')
    then
        alter table pgq.tick drop constraint tick_queue_fkey;
    end if;
end;
$$;

create sequence if not exists pgq.batch_id_seq;

-- A consumer of a queue: what hardly changes. Its position is in pgq.position, pgq.subscription shows both.
--   sub_id          owner of retried events; subconsumers of one group share it
--   sub_paused      no new batches (Skytide's addition)
do $$
begin
    -- one table once held both
    if exists (
        select 1 from pg_catalog.pg_class c
         where c.oid = to_regclass('pgq.subscription') and c.relkind = 'r')
    then
        alter table pgq.subscription rename to subscriber;
        alter table pgq.subscriber reset (fillfactor, autovacuum_vacuum_threshold, autovacuum_vacuum_scale_factor);
    end if;
end;
$$;
create sequence if not exists pgq.subscription_sub_id_seq as integer;
create table if not exists pgq.subscriber (
    sub_id          integer     not null default nextval('pgq.subscription_sub_id_seq'),
    sub_queue       integer     not null,
    sub_consumer    integer     not null,
    constraint subscription_pkey primary key (sub_queue, sub_consumer),
    constraint sub_queue_fkey foreign key (sub_queue) references pgq.queue (queue_id),
    constraint sub_consumer_fkey foreign key (sub_consumer) references pgq.consumer (co_id)
);
alter sequence pgq.subscription_sub_id_seq owned by pgq.subscriber.sub_id;
alter table pgq.subscriber add column if not exists sub_paused boolean not null default false;

-- Positions of consumers: a row is inserted for each change, none is updated or deleted, the newest one
-- counts. So an old snapshot does not make taking batches slower and slower, as dead versions of one row
-- would. The tables take turns like event tables: see pgq.maint_rotate_positions.
--   pos_table       which of them
--   pos_nr          1, 2, 3 ... a consumer
--   pos_last_tick   last finished tick; null for a subconsumer that has nothing to do
--   pos_active      last registering, taking or finishing of a batch
--   pos_batch       open batch, which ends at pos_next_tick
create table if not exists pgq.position (
    pos_table       smallint    not null,
    pos_queue       integer     not null,
    pos_consumer    integer     not null,
    pos_nr          bigint      not null,
    pos_last_tick   bigint,
    pos_active      timestamptz not null,
    pos_batch       bigint,
    pos_next_tick   bigint,
    constraint position_pkey primary key (pos_queue, pos_consumer, pos_nr, pos_table)
) partition by list (pos_table);
create table if not exists pgq.position_0 partition of pgq.position for values in (0);
create table if not exists pgq.position_1 partition of pgq.position for values in (1);
create table if not exists pgq.position_2 partition of pgq.position for values in (2);
create index if not exists position_batch_idx on pgq.position (pos_batch) where pos_batch is not null;

-- Which of them receives positions now. One row.
create table if not exists pgq.position_switch (
    pos_table       smallint    not null,
    switch_time     timestamptz not null default now()
);
insert into pgq.position_switch (pos_table)
select 0 where not exists (select 1 from pgq.position_switch);

do $$
begin
    if exists (
        select 1 from pg_catalog.pg_attribute a
         where a.attrelid = 'pgq.subscriber'::regclass and a.attname = 'sub_last_tick' and not a.attisdropped)
    then
        insert into pgq.position
        select w.pos_table, s.sub_queue, s.sub_consumer, 1, s.sub_last_tick, s.sub_active, s.sub_batch, s.sub_next_tick
          from pgq.subscriber s, pgq.position_switch w;
        alter table pgq.subscriber
            drop column sub_last_tick, drop column sub_active, drop column sub_batch, drop column sub_next_tick;
    end if;
end;
$$;

-- The table that programs know, to look at and to correct by hand.
--   sub_nr      which position of the consumer this is
-- Where session_replication_role is replica, the trigger that changes it does not fire, and a view has no ENABLE ALWAYS.
-- So there a change fails at a cast, by a lock that only changes take, or by the default of sub_nr, rather than be lost.
create or replace view pgq.subscription as
    select s.sub_id, s.sub_queue, s.sub_consumer, p.pos_last_tick as sub_last_tick, p.pos_active as sub_active,
           p.pos_batch as sub_batch, p.pos_next_tick as sub_next_tick, s.sub_paused, p.pos_nr as sub_nr
      from pgq.subscriber s
     cross join lateral (
            select n.pos_last_tick, n.pos_active, n.pos_batch, n.pos_next_tick, n.pos_nr
              from pgq.position n
             where n.pos_queue = s.sub_queue and n.pos_consumer = s.sub_consumer
             order by n.pos_nr desc
             limit 1) p
     where case
               when current_setting('session_replication_role') = 'replica' and exists (
                        select 1 from pg_catalog.pg_locks l
                         where l.pid = pg_backend_pid() and l.relation = to_regclass('pgq.subscription')
                           and l.mode = 'RowExclusiveLock')
               then ('pgq.subscription cannot be changed while session_replication_role is '
                     || current_setting('session_replication_role'))::boolean
               else true
           end;
alter view pgq.subscription alter column sub_nr set default
    case
        when current_setting('session_replication_role') = 'replica'
        then ('pgq.subscription cannot be changed while session_replication_role is '
              || current_setting('session_replication_role'))::bigint
    end;

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

-- Events that failed too often for one consumer. Kept until they are replayed or purged, also when the
-- consumer is gone.
--   dl_consumer     the main one, where subconsumers share the work
--   dl_reason       what the consumer said the last time
create table if not exists pgq.dead_letter (
    dl_id           bigserial,
    dl_time         timestamptz not null default now(),
    dl_queue        integer     not null,
    dl_consumer     text        not null,
    dl_reason       text,
    ev_id           bigint      not null,
    ev_time         timestamptz not null,
    ev_retry        integer,
    ev_type         text,
    ev_data         text,
    ev_extra1       text,
    ev_extra2       text,
    ev_extra3       text,
    ev_extra4       text,
    constraint dead_letter_pkey primary key (dl_id),
    constraint dead_letter_event_uq unique (dl_queue, dl_consumer, ev_id),
    constraint dead_letter_queue_fkey foreign key (dl_queue) references pgq.queue (queue_id)
);

-- Events that are in no batch before their time.
create table if not exists pgq.delayed_event (
    ev_deliver_at   timestamptz not null,
    ev_queue        integer     not null,
    ev_id           bigint      not null,
    ev_type         text,
    ev_data         text,
    ev_extra1       text,
    ev_extra2       text,
    ev_extra3       text,
    ev_extra4       text,
    constraint delayed_event_pkey primary key (ev_queue, ev_id),
    constraint delayed_event_queue_fkey foreign key (ev_queue) references pgq.queue (queue_id)
);
create index if not exists delayed_event_due_idx on pgq.delayed_event (ev_deliver_at);

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
