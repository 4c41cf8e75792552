-- pgq_coop.next_batch_custom(queue, consumer, subconsumer, min lag, min count, min interval, dead interval):
--   open the group's next batch of a wanted size for a subconsumer
--   min ...          as pgq.next_batch_custom
--   dead interval  remove one other subconsumer that was not active for so long, and take its batch over
--   returns        batch id; null if there is none yet, or the consumer or subconsumer is paused. An open
--                  batch is given again
--   errors         main consumer has batch open; those of pgq.next_batch_custom
--   note           registers consumer and subconsumer if need be. Batches of a group are worked on in
--                  parallel, in no order
--   hazard         a subconsumer taken for dead may still finish the batch under its new owner: both know
--                  the same id. The interval must be longer than any batch takes
create or replace function pgq_coop.next_batch_custom(
    i_queue_name text, i_consumer_name text, i_subconsumer_name text,
    i_min_lag interval, i_min_count integer, i_min_interval interval, i_dead_interval interval)
returns bigint as $$
declare
    m       record;
    s       record;
    l_dead  record;
    l_next  record;
begin
    loop
        -- one at a time a group: the lock on the main row is what all the rest relies on. Positions are read
        -- by the next statements, whose snapshots are younger than it
        select u.sub_id, u.sub_queue, u.sub_consumer
          into m
          from pgq.subscriber u
          join pgq.queue q on q.queue_id = u.sub_queue
          join pgq.consumer c on c.co_id = u.sub_consumer
         where q.queue_name = i_queue_name and c.co_name = i_consumer_name
           for no key update of u;
        if found then
            if exists (
                select 1 from pgq.subscription u
                 where u.sub_queue = m.sub_queue and u.sub_consumer = m.sub_consumer and u.sub_batch is not null)
            then
                raise exception 'main consumer has batch open?';
            end if;
            select u.sub_consumer, u.sub_batch, u.sub_last_tick, u.sub_next_tick, u.sub_paused, u.sub_nr
              into s
              from pgq.subscription u
              join pgq.consumer c on c.co_id = u.sub_consumer
             where u.sub_queue = m.sub_queue and u.sub_id = m.sub_id
               and c.co_name = i_consumer_name || '.' || i_subconsumer_name;
            exit when found;
        end if;
        perform pgq_coop.register_subconsumer(i_queue_name, i_consumer_name, i_subconsumer_name);
    end loop;

    if s.sub_batch is not null then
        perform pgq._put_position(m.sub_queue, s.sub_consumer, s.sub_nr,
                                  s.sub_last_tick, s.sub_batch, s.sub_next_tick);
        return s.sub_batch;
    end if;
    if s.sub_paused then
        return null;
    end if;

    if i_dead_interval is not null then
        select u.sub_consumer, u.sub_batch, u.sub_last_tick, u.sub_next_tick, u.sub_nr, u.sub_active
          into l_dead
          from pgq.subscription u
         where u.sub_queue = m.sub_queue and u.sub_id = m.sub_id
           and u.sub_consumer not in (m.sub_consumer, s.sub_consumer)
           and u.sub_active < now() - i_dead_interval
         order by u.sub_batch nulls last
         limit 1;
        -- this takes its position from it: it is alive if it moved meanwhile
        if found
            and pgq._put_position(m.sub_queue, l_dead.sub_consumer, l_dead.sub_nr, null, null, null,
                                  l_dead.sub_active)
        then
            delete from pgq.subscriber
             where sub_queue = m.sub_queue and sub_consumer = l_dead.sub_consumer;
            delete from pgq.consumer c
             where c.co_id = l_dead.sub_consumer
               and not exists (select 1 from pgq.subscriber o where o.sub_consumer = c.co_id);
            if l_dead.sub_batch is not null then
                perform pgq._put_position(m.sub_queue, s.sub_consumer, s.sub_nr,
                                          l_dead.sub_last_tick, l_dead.sub_batch, l_dead.sub_next_tick);
                return l_dead.sub_batch;
            end if;
        end if;
    end if;

    select b.batch_id, b.prev_tick_id, b.cur_tick_id
      into l_next
      from pgq.next_batch_custom(i_queue_name, i_consumer_name, i_min_lag, i_min_count, i_min_interval) b;
    if l_next.batch_id is null then
        return null;
    end if;

    -- the group moves on; the batch lives in the subconsumer's row from here
    perform pgq.finish_batch(l_next.batch_id);
    perform pgq._put_position(m.sub_queue, s.sub_consumer, s.sub_nr,
                              l_next.prev_tick_id, l_next.batch_id, l_next.cur_tick_id);
    return l_next.batch_id;
end;
$$ language plpgsql security definer set search_path = pg_catalog, pg_temp;

-- pgq_coop.next_batch_custom(queue, consumer, subconsumer, min lag, min count, min interval): the same without
--   looking for dead ones
create or replace function pgq_coop.next_batch_custom(
    i_queue_name text, i_consumer_name text, i_subconsumer_name text,
    i_min_lag interval, i_min_count integer, i_min_interval interval)
returns bigint as $$
begin
    return pgq_coop.next_batch_custom(i_queue_name, i_consumer_name, i_subconsumer_name,
                                      i_min_lag, i_min_count, i_min_interval, null);
end;
$$ language plpgsql;
