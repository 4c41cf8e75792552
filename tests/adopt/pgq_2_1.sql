-- PgQ as version 2.1 left it in a database: its tables, keys and result types, and functions that are just
-- enough to produce and consume with. Londiste 2's tables stand for those of an old replica.

create schema pgq;
grant usage on schema pgq to public;

create table pgq.queue (
    queue_id                    serial constraint queue_pkey primary key,
    queue_name                  text not null constraint queue_name_uq unique,
    queue_ntables               integer not null default 3,
    queue_cur_table             integer not null default 0,
    queue_rotation_period       interval not null default '2 hours',
    queue_switch_step1          bigint not null default txid_current(),
    queue_switch_step2          bigint default txid_current(),
    queue_switch_time           timestamptz not null default now(),
    queue_external_ticker       boolean not null default false,
    queue_ticker_max_count      integer not null default 500,
    queue_ticker_max_lag        interval not null default '3 seconds',
    queue_ticker_idle_period    interval not null default '1 minute',
    queue_data_pfx              text not null,
    queue_event_seq             text not null,
    queue_tick_seq              text not null
);

create table pgq.consumer (
    co_id       serial constraint consumer_pkey primary key,
    co_name     text not null constraint consumer_name_uq unique
);

create table pgq.tick (
    tick_queue      integer not null constraint tick_queue_fkey references pgq.queue,
    tick_id         bigint not null,
    tick_time       timestamptz not null default now(),
    tick_snapshot   txid_snapshot not null default txid_current_snapshot(),
    constraint tick_pkey primary key (tick_queue, tick_id)
);

create sequence pgq.batch_id_seq;

create table pgq.subscription (
    sub_id          serial constraint subscription_pkey primary key,
    sub_queue       integer not null constraint sub_queue_fkey references pgq.queue,
    sub_consumer    integer not null constraint sub_consumer_fkey references pgq.consumer,
    sub_last_tick   bigint not null,
    sub_active      timestamptz not null default now(),
    sub_batch       bigint,
    sub_next_tick   bigint,
    constraint subscription_ukey unique (sub_queue, sub_consumer)
);

create table pgq.event_template (
    ev_id       bigint not null,
    ev_time     timestamptz not null,
    ev_txid     bigint not null default txid_current(),
    ev_owner    integer,
    ev_retry    integer,
    ev_type     text,
    ev_data     text,
    ev_extra1   text,
    ev_extra2   text,
    ev_extra3   text,
    ev_extra4   text
);

create table pgq.retry_queue (
    ev_retry_after  timestamptz not null,
    like pgq.event_template,
    constraint rq_pkey primary key (ev_owner, ev_id),
    constraint rq_owner_fkey foreign key (ev_owner) references pgq.subscription (sub_id)
);
create index rq_retry_idx on pgq.retry_queue (ev_retry_after);
create index rq_retry_owner_idx on pgq.retry_queue (ev_owner, ev_id);

create table pgq.failed_queue (
    ev_failed_reason    text,
    ev_failed_time      timestamptz not null,
    like pgq.event_template,
    constraint fq_pkey primary key (ev_owner, ev_id),
    constraint fq_owner_fkey foreign key (ev_owner) references pgq.subscription (sub_id)
);

create type pgq.ret_batch_event as (
    ev_id bigint, ev_time timestamptz, ev_txid bigint, ev_retry integer, ev_type text, ev_data text,
    ev_extra1 text, ev_extra2 text, ev_extra3 text, ev_extra4 text);
create type pgq.ret_batch_info as (
    queue_name text, consumer_name text, batch_start timestamptz, batch_end timestamptz, prev_tick_id bigint,
    tick_id bigint, lag interval);
create type pgq.ret_consumer_info as (
    queue_name text, consumer_name text, lag interval, last_seen interval, last_tick bigint,
    current_batch bigint, next_tick bigint);
create type pgq.ret_queue_info as (
    queue_name text, queue_ntables integer, queue_cur_table integer, queue_rotation_period interval,
    queue_switch_time timestamptz, queue_external_ticker boolean, queue_ticker_max_count integer,
    queue_ticker_max_lag interval, queue_ticker_idle_period interval, ticker_lag interval);

create function pgq.version() returns text as $$ select '2.1.12'::text $$ language sql;

create function pgq.create_queue(i_queue_name text) returns integer as $$
declare
    l_id    integer := nextval('pgq.queue_queue_id_seq');
    l_pfx   text := 'pgq.event_' || l_id;
begin
    insert into pgq.queue (queue_id, queue_name, queue_data_pfx, queue_event_seq, queue_tick_seq)
    values (l_id, i_queue_name, l_pfx, l_pfx || '_id_seq', l_pfx || '_tick_seq');
    execute 'create sequence ' || l_pfx || '_id_seq';
    execute 'create sequence ' || l_pfx || '_tick_seq';
    execute 'create table ' || l_pfx || ' () inherits (pgq.event_template)';
    for i in 0 .. 2 loop
        execute format('create table %1$s_%2$s () inherits (%1$s)', l_pfx, i);
        execute format('alter table %1$s_%2$s alter ev_id set default nextval(''%1$s_id_seq'')', l_pfx, i);
        execute format('create index event_%1$s_%2$s_txid_idx on pgq.event_%1$s_%2$s (ev_txid)', l_id, i);
    end loop;
    perform pgq.ticker(i_queue_name);
    return 1;
end;
$$ language plpgsql security definer;

create function pgq.ticker(i_queue_name text) returns bigint as $$
    insert into pgq.tick (tick_queue, tick_id)
    select queue_id, nextval(queue_tick_seq::regclass) from pgq.queue where queue_name = $1
    returning tick_id
$$ language sql security definer;

create function pgq.ticker(i_queue_name text, i_tick_id bigint) returns bigint as $$
    insert into pgq.tick (tick_queue, tick_id)
    select queue_id, $2 from pgq.queue where queue_name = $1 and queue_external_ticker
    returning tick_id
$$ language sql security definer;

create function pgq.insert_event_raw(
    queue_name text, ev_id bigint, ev_time timestamptz, ev_owner integer, ev_retry integer,
    ev_type text, ev_data text, ev_extra1 text, ev_extra2 text, ev_extra3 text, ev_extra4 text)
returns bigint as $$
declare
    l_table text;
    l_id    bigint;
begin
    select q.queue_data_pfx || '_' || q.queue_cur_table, coalesce($2, nextval(q.queue_event_seq::regclass))
      into strict l_table, l_id
      from pgq.queue q where q.queue_name = $1;
    execute 'insert into ' || l_table || ' (ev_id, ev_time, ev_owner, ev_retry, ev_type, ev_data, ev_extra1,'
            || ' ev_extra2, ev_extra3, ev_extra4) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)'
        using l_id, coalesce($3, now()), $4, $5, $6, $7, $8, $9, $10, $11;
    return l_id;
end;
$$ language plpgsql security definer;

create function pgq.insert_event(queue_name text, ev_type text, ev_data text) returns bigint as $$
    select pgq.insert_event_raw($1, null, now(), null, null, $2, $3, null, null, null, null)
$$ language sql security definer;

create function pgq.insert_event(
    queue_name text, ev_type text, ev_data text, ev_extra1 text, ev_extra2 text, ev_extra3 text, ev_extra4 text)
returns bigint as $$
    select pgq.insert_event_raw($1, null, now(), null, null, $2, $3, $4, $5, $6, $7)
$$ language sql security definer;

create function pgq.register_consumer(x_queue_name text, x_consumer_id text, x_tick_pos bigint)
returns integer as $$
begin
    insert into pgq.consumer (co_name) values (x_consumer_id) on conflict do nothing;
    insert into pgq.subscription (sub_queue, sub_consumer, sub_last_tick)
    select q.queue_id, c.co_id,
           coalesce(x_tick_pos, (select max(t.tick_id) from pgq.tick t where t.tick_queue = q.queue_id))
      from pgq.queue q, pgq.consumer c
     where q.queue_name = x_queue_name and c.co_name = x_consumer_id;
    return 1;
end;
$$ language plpgsql security definer;

create function pgq.register_consumer(x_queue_name text, x_consumer_id text) returns integer as $$
    select pgq.register_consumer($1, $2, null)
$$ language sql security definer;

create function pgq.next_batch(x_queue_name text, x_consumer_name text) returns bigint as $$
declare
    s       record;
    l_next  bigint;
    l_batch bigint;
begin
    select u.* into strict s
      from pgq.subscription u
      join pgq.queue q on q.queue_id = u.sub_queue and q.queue_name = x_queue_name
      join pgq.consumer c on c.co_id = u.sub_consumer and c.co_name = x_consumer_name;
    if s.sub_batch is not null then
        return s.sub_batch;
    end if;
    select min(t.tick_id) into l_next from pgq.tick t where t.tick_queue = s.sub_queue and t.tick_id > s.sub_last_tick;
    if l_next is null then
        return null;
    end if;
    update pgq.subscription
       set sub_batch = nextval('pgq.batch_id_seq'), sub_next_tick = l_next, sub_active = now()
     where sub_id = s.sub_id
    returning sub_batch into l_batch;
    return l_batch;
end;
$$ language plpgsql security definer;

create function pgq.get_batch_events(x_batch_id bigint) returns setof pgq.ret_batch_event as $$
declare
    s   record;
begin
    select u.sub_id, q.queue_data_pfx as pfx, a.tick_snapshot as last, b.tick_snapshot as next
      into strict s
      from pgq.subscription u
      join pgq.queue q on q.queue_id = u.sub_queue
      join pgq.tick a on a.tick_queue = u.sub_queue and a.tick_id = u.sub_last_tick
      join pgq.tick b on b.tick_queue = u.sub_queue and b.tick_id = u.sub_next_tick
     where u.sub_batch = x_batch_id;
    return query execute
        'select ev_id, ev_time, ev_txid, ev_retry, ev_type, ev_data, ev_extra1, ev_extra2, ev_extra3, ev_extra4 from '
        || s.pfx || ' where txid_visible_in_snapshot(ev_txid, $2) and not txid_visible_in_snapshot(ev_txid, $1)'
        || ' and (ev_owner is null or ev_owner = $3) order by ev_id'
        using s.last, s.next, s.sub_id;
end;
$$ language plpgsql security definer;

create function pgq.finish_batch(x_batch_id bigint) returns integer as $$
begin
    update pgq.subscription
       set sub_last_tick = sub_next_tick, sub_batch = null, sub_next_tick = null, sub_active = now()
     where sub_batch = x_batch_id;
    return found::integer;
end;
$$ language plpgsql security definer;

create function pgq.event_failed(x_batch_id bigint, x_event_id bigint, x_reason text) returns integer as $$
    insert into pgq.failed_queue
    select $3, now(), e.ev_id, e.ev_time, e.ev_txid, s.sub_id, coalesce(e.ev_retry, 0), e.ev_type, e.ev_data,
           e.ev_extra1, e.ev_extra2, e.ev_extra3, e.ev_extra4
      from pgq.get_batch_events($1) e, pgq.subscription s
     where s.sub_batch = $1 and e.ev_id = $2
    returning 1
$$ language sql security definer;

create function pgq.event_retry(x_batch_id bigint, x_event_id bigint, x_retry_seconds integer)
returns integer as $$
    insert into pgq.retry_queue
    select now() + $3 * interval '1 second', e.ev_id, e.ev_time, e.ev_txid, s.sub_id, coalesce(e.ev_retry, 0) + 1,
           e.ev_type, e.ev_data, e.ev_extra1, e.ev_extra2, e.ev_extra3, e.ev_extra4
      from pgq.get_batch_events($1) e, pgq.subscription s
     where s.sub_batch = $1 and e.ev_id = $2
    returning 1
$$ language sql security definer;

create function pgq.get_batch_info(x_batch_id bigint) returns pgq.ret_batch_info as $$
    select q.queue_name, c.co_name, null::timestamptz, null::timestamptz, s.sub_last_tick, s.sub_next_tick,
           null::interval
      from pgq.subscription s
      join pgq.queue q on q.queue_id = s.sub_queue
      join pgq.consumer c on c.co_id = s.sub_consumer
     where s.sub_batch = $1
$$ language sql security definer;

create function pgq.failed_event_count(x_queue_name text, x_consumer_name text) returns integer as $$
    select count(*)::integer from pgq.failed_queue
$$ language sql security definer;

create function pgq.get_queue_info() returns setof pgq.ret_queue_info as $$
    select queue_name, queue_ntables, queue_cur_table, queue_rotation_period, queue_switch_time,
           queue_external_ticker, queue_ticker_max_count, queue_ticker_max_lag, queue_ticker_idle_period,
           null::interval
      from pgq.queue
$$ language sql security definer;

create schema pgq_ext;
create table pgq_ext.completed_tick (consumer_id text primary key, last_tick_id bigint not null);
create table pgq_ext.completed_batch (consumer_id text primary key, last_batch_id bigint not null);
create table pgq_ext.completed_event (
    consumer_id text not null, batch_id bigint not null, event_id bigint not null,
    primary key (consumer_id, batch_id, event_id));
create table pgq_ext.partial_batch (consumer_id text primary key, cur_batch_id bigint not null);
create function pgq_ext.get_last_tick(a_consumer text) returns bigint as $$
    select last_tick_id from pgq_ext.completed_tick where consumer_id = $1
$$ language sql;

create schema londiste;
create table londiste.provider_table (
    nr serial, queue_name text not null, table_name text not null, trigger_name text,
    primary key (queue_name, table_name));
create table londiste.subscriber_table (
    nr serial, queue_name text not null, table_name text not null, merge_state text, snapshot text,
    primary key (queue_name, table_name));
create table londiste.subscriber_pending_fkeys (
    from_table text not null, to_table text not null, fkey_name text not null, fkey_def text not null);
create function londiste.find_table_fkeys(i_table_name text)
returns setof londiste.subscriber_pending_fkeys as $$
    select * from londiste.subscriber_pending_fkeys where from_table = $1
$$ language sql;
