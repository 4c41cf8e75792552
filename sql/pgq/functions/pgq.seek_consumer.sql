-- pgq.seek_consumer(queue, consumer, tick): move a consumer to a tick (Skytide's addition)
--   returns  the tick
--   errors   Not subscriber to queue; a subconsumer, which has no position; cannot reposition, tick not found
--   note     drops its open batch. Events go back as far as there are ticks: one to two rotation periods.
--            Retried events are not touched
create or replace function pgq.seek_consumer(i_queue_name text, i_consumer_name text, i_tick_id bigint)
returns bigint as $$
declare
    l_sub   record;
begin
    select s.sub_id, s.sub_queue, s.sub_last_tick, s.sub_batch into l_sub
      from pgq.subscription s
      join pgq.queue q on q.queue_id = s.sub_queue
      join pgq.consumer c on c.co_id = s.sub_consumer
     where q.queue_name = i_queue_name and c.co_name = i_consumer_name;
    if not found then
        raise exception 'Not subscriber to queue: %/%',
            coalesce(i_queue_name, 'NULL'), coalesce(i_consumer_name, 'NULL');
    end if;
    if exists (
        select 1
          from pgq.subscription m
          join pgq.consumer c on c.co_id = m.sub_consumer
         where m.sub_queue = l_sub.sub_queue and m.sub_id = l_sub.sub_id
           and starts_with(i_consumer_name, c.co_name || '.'))
    then
        raise exception '% is a subconsumer and has no position of its own', i_consumer_name
            using hint = 'Move its main consumer.';
    end if;
    if i_tick_id is null then
        raise exception 'cannot reposition, tick not found: %', i_tick_id;
    end if;
    perform pgq.register_consumer_at(i_queue_name, i_consumer_name, i_tick_id);
    return i_tick_id;
end;
$$ language plpgsql security definer set search_path = pg_catalog, pg_temp;

-- pgq.seek_consumer(queue, consumer, time): move a consumer to the last tick before a time (Skytide's addition)
--   time     older than all ticks, as -infinity: the oldest one
--   returns  the tick
create or replace function pgq.seek_consumer(i_queue_name text, i_consumer_name text, i_time timestamptz)
returns bigint as $$
declare
    l_queue_id  integer;
    l_from      bigint;
begin
    -- rotation must not take the tick away that is found here
    select q.queue_id, coalesce(q.queue_ticks_from, 0) into l_queue_id, l_from
      from pgq.queue q
     where q.queue_name = i_queue_name
       for key share;
    return pgq.seek_consumer(
        i_queue_name, i_consumer_name,
        (select coalesce(max(t.tick_id) filter (where t.tick_time <= i_time), min(t.tick_id))
           from pgq.tick t
          where t.tick_queue = l_queue_id and i_time is not null
            and (txid_snapshot_xmin(t.tick_snapshot) >= l_from
                 or t.tick_id = (select max(n.tick_id) from pgq.tick n where n.tick_queue = l_queue_id))));
end;
$$ language plpgsql security definer set search_path = pg_catalog, pg_temp;
