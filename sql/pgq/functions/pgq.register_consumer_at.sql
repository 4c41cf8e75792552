-- pgq.register_consumer_at(queue, consumer, tick): subscribe at a tick, or move there
--   tick     null: the newest one if new, no move if not
--   returns  1 new; 0 was subscribed; if a tick was given it was moved there and its open batch dropped
--   errors   Event queue not created yet; cannot reposition, tick not found; No ticks for this queue
create or replace function pgq.register_consumer_at(
    x_queue_name text, x_consumer_name text, x_tick_pos bigint)
returns integer as $$
declare
    l_queue_id      integer;
    l_consumer_id   integer;
    l_tick          bigint;
    l_from          bigint;
    l_moved         boolean := true;
begin
    -- the lock keeps rotation from taking the tick away between the look at it and the commit
    select q.queue_id, coalesce(q.queue_ticks_from, 0) into l_queue_id, l_from
      from pgq.queue q
     where q.queue_name = x_queue_name
       for key share;
    if not found then
        raise exception 'Event queue not created yet';
    end if;

    insert into pgq.consumer (co_name) values (x_consumer_name) on conflict (co_name) do nothing;
    select c.co_id into l_consumer_id from pgq.consumer c where c.co_name = x_consumer_name for update;

    if x_tick_pos is not null
        and not exists (
            select 1 from pgq.tick t
             where t.tick_queue = l_queue_id and t.tick_id = x_tick_pos
               -- one that is kept without its events is as good as deleted
               and (txid_snapshot_xmin(t.tick_snapshot) >= l_from
                    or t.tick_id = (select max(n.tick_id) from pgq.tick n where n.tick_queue = l_queue_id)
                    or exists (select 1 from pgq.subscription s
                                where s.sub_queue = l_queue_id and s.sub_last_tick = t.tick_id)))
    then
        raise exception 'cannot reposition, tick not found: %', x_tick_pos;
    end if;

    if exists (
        select 1 from pgq.subscriber s where s.sub_queue = l_queue_id and s.sub_consumer = l_consumer_id)
    then
        if x_tick_pos is not null then
            l_moved := pgq._put_position(l_queue_id, l_consumer_id, null, x_tick_pos, null, null);
        end if;
        if not l_moved then
            raise exception 'position of consumer % was not stored', x_consumer_name;
        end if;
        return 0;
    end if;

    l_tick := coalesce(x_tick_pos, (select max(t.tick_id) from pgq.tick t where t.tick_queue = l_queue_id));
    if l_tick is null then
        raise exception 'No ticks for this queue.  Please run ticker on database.';
    end if;
    insert into pgq.subscriber (sub_queue, sub_consumer) values (l_queue_id, l_consumer_id);
    if not pgq._put_position(l_queue_id, l_consumer_id, null, l_tick, null, null) then
        raise exception 'position of consumer % was not stored', x_consumer_name;
    end if;
    return 1;
end;
$$ language plpgsql security definer set search_path = pg_catalog, pg_temp;
