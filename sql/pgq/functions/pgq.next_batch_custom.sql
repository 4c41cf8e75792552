-- pgq.next_batch_custom(queue, consumer, min lag, min count, min interval): open a batch of a wanted size
--   min lag        only if the batch ends at least this long ago
--   min count      only if it has about so many events ...
--   min interval   ... or spans so much time
--   out            one row, all null if there is none or the consumer is paused. An open batch is given
--                  again, unchanged
--   errors         Not subscriber to queue; PgQ corruption
--   hazard         two sessions may call it for one consumer: the new position is taken only if the one that
--                  was read is still the newest, else all is read again
create or replace function pgq.next_batch_custom(
    in i_queue_name text, in i_consumer_name text,
    in i_min_lag interval, in i_min_count integer, in i_min_interval interval,
    out batch_id bigint, out cur_tick_id bigint, out prev_tick_id bigint,
    out cur_tick_time timestamptz, out prev_tick_time timestamptz,
    out cur_tick_event_seq bigint, out prev_tick_event_seq bigint)
as $$
declare
    s       record;
    l_prev  record;
    l_next  record;
    l_batch bigint;
begin
    loop
        select u.sub_queue, u.sub_consumer, u.sub_last_tick, u.sub_batch, u.sub_next_tick, u.sub_paused, u.sub_nr
          into s
          from pgq.queue q
          join pgq.subscription u on u.sub_queue = q.queue_id
          join pgq.consumer o on o.co_id = u.sub_consumer
         where q.queue_name = i_queue_name and o.co_name = i_consumer_name;
        if not found then
            raise exception 'Not subscriber to queue: %/%',
                coalesce(i_queue_name, 'NULL'), coalesce(i_consumer_name, 'NULL');
        end if;
        -- not joined above: with old statistics that reads all ticks of the queue
        select t.tick_id, t.tick_time, t.tick_event_seq
          into l_prev
          from pgq.tick t
         where t.tick_queue = s.sub_queue and t.tick_id = s.sub_last_tick;
        if not found then
            raise exception 'PgQ corruption: Consumer % on queue % does not see tick %',
                    i_consumer_name, i_queue_name, s.sub_last_tick;
        end if;

        if s.sub_batch is not null then
            batch_id := s.sub_batch;
            select t.tick_id, t.tick_time, t.tick_event_seq
              into cur_tick_id, cur_tick_time, cur_tick_event_seq
              from pgq.tick t
             where t.tick_queue = s.sub_queue and t.tick_id = s.sub_next_tick;
            prev_tick_id := l_prev.tick_id;
            prev_tick_time := l_prev.tick_time;
            prev_tick_event_seq := l_prev.tick_event_seq;
            return;
        end if;

        if s.sub_paused then
            return;
        end if;

        if i_min_count is null and i_min_interval is null then
            select t.tick_id, t.tick_time, t.tick_event_seq
              into l_next
              from pgq.tick t
             where t.tick_queue = s.sub_queue and t.tick_id > s.sub_last_tick
             order by t.tick_id
             limit 1;
        else
            select h.next_tick_id as tick_id, h.next_tick_time as tick_time, h.next_tick_seq as tick_event_seq
              into l_next
              from pgq.find_tick_helper(s.sub_queue, l_prev.tick_id, l_prev.tick_time, l_prev.tick_event_seq,
                                        i_min_count, i_min_interval) h;
        end if;
        if l_next.tick_id is null or now() - l_next.tick_time < i_min_lag then
            return;
        end if;

        l_batch := nextval('pgq.batch_id_seq');
        if pgq._put_position(s.sub_queue, s.sub_consumer, s.sub_nr, s.sub_last_tick, l_batch, l_next.tick_id) then
            batch_id := l_batch;
            cur_tick_id := l_next.tick_id;
            cur_tick_time := l_next.tick_time;
            cur_tick_event_seq := l_next.tick_event_seq;
            prev_tick_id := l_prev.tick_id;
            prev_tick_time := l_prev.tick_time;
            prev_tick_event_seq := l_prev.tick_event_seq;
            return;
        end if;
    end loop;
end;
$$ language plpgsql security definer set search_path = pg_catalog, pg_temp;
