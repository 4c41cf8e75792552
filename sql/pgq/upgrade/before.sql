-- Tables of PgQ 2.1 or 3.x, brought to the form that tables.sql goes on from. Runs once, before it, with
-- every table locked. What a table has already is left as it is.

-- queue: 2.1 knew neither disabled queues nor paused tickers nor limits, 3.x before 3.2 no extra maintenance
alter table pgq.queue
    add column if not exists queue_disable_insert   boolean not null default false,
    add column if not exists queue_ticker_paused    boolean not null default false,
    add column if not exists queue_per_tx_limit     integer,
    add column if not exists queue_extra_maint      text[];

-- tick: 2.1 did not note the event sequence. One less than now: what came after the newest tick counts as new.
-- The default is for an old pgq.ticker that waits for our locks and then goes on
do $$
begin
    if not exists (
        select 1 from pg_catalog.pg_attribute a
         where a.attrelid = 'pgq.tick'::regclass and a.attname = 'tick_event_seq' and not a.attisdropped)
    then
        alter table pgq.tick add column tick_event_seq bigint;
        alter table pgq.tick alter column tick_event_seq set default 0;
    end if;
end;
$$;
do $$
declare
    q       record;
    l_seq   bigint;
begin
    for q in
        select t.queue_id, t.queue_event_seq
          from pgq.queue t
         where exists (select 1 from pgq.tick k where k.tick_queue = t.queue_id and k.tick_event_seq is null)
    loop
        execute 'select last_value from ' || q.queue_event_seq::regclass into l_seq;
        update pgq.tick
           set tick_event_seq = greatest(l_seq - 1, 0)
         where tick_queue = q.queue_id and tick_event_seq is null;
    end loop;
end;
$$;
alter table pgq.tick alter column tick_event_seq set not null;

-- retry_queue: the queue is noted beside the owner, who may share its number; no key into subscription
do $$
declare
    l_key   text;
begin
    alter table pgq.retry_queue add column if not exists ev_queue integer;
    update pgq.retry_queue r
       set ev_queue = s.sub_queue
      from pgq.subscription s
     where s.sub_id = r.ev_owner and r.ev_queue is null;
    alter table pgq.retry_queue alter column ev_queue set not null;
    alter table pgq.retry_queue alter column ev_txid drop not null;
    alter table pgq.retry_queue alter column ev_txid drop default;
    drop index if exists pgq.rq_retry_owner_idx;
    if not exists (
        select 1 from pg_catalog.pg_constraint c
         where c.conrelid = 'pgq.retry_queue'::regclass and c.contype = 'f'
           and c.confrelid = 'pgq.queue'::regclass)
    then
        alter table pgq.retry_queue
            add constraint rq_queue_id_fkey foreign key (ev_queue) references pgq.queue (queue_id);
    end if;
    for l_key in
        select format('alter table %s drop constraint %I', c.conrelid::regclass, c.conname)
          from pg_catalog.pg_constraint c
         where c.contype = 'f' and c.confrelid = 'pgq.subscription'::regclass
           and c.conrelid in (to_regclass('pgq.retry_queue'), to_regclass('pgq.failed_queue'))
    loop
        execute l_key;
    end loop;
end;
$$;

-- subscription: subconsumers share sub_id, so the key is the queue and the consumer
do $$
declare
    l_key   name;
begin
    select c.conname into l_key
      from pg_catalog.pg_constraint c
     where c.conrelid = 'pgq.subscription'::regclass and c.contype = 'p'
       and pg_get_constraintdef(c.oid) <> 'PRIMARY KEY (sub_queue, sub_consumer)';
    if found then
        execute format('alter table pgq.subscription drop constraint %I', l_key);
        alter table pgq.subscription
            add constraint subscription_pkey primary key (sub_queue, sub_consumer);
    end if;
    alter table pgq.subscription alter column sub_last_tick drop not null;
end;
$$;

-- what 3.0 took away
drop function if exists pgq.failed_event_list(text, text);
drop function if exists pgq.failed_event_list(text, text, integer, integer);
drop function if exists pgq.failed_event_count(text, text);
drop function if exists pgq.failed_event_delete(text, text, bigint);
drop function if exists pgq.failed_event_retry(text, text, bigint);
drop function if exists pgq.event_failed(bigint, bigint, text);
drop function if exists pgq.ticker(text, bigint);
