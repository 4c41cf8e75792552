-- pgq.next_batch_custom(queue, consumer, min lag, min count, min interval): open a batch of a wanted size
--   min lag        only if the batch ends at least this long ago
--   min count      only if it has about so many events …
--   min interval   … or spans so much time
--   out            one row, all null if there is none or the consumer is paused. An open batch is given
--                  again, unchanged
--   errors         Not subscriber to queue; PgQ corruption
--   hazard         two sessions may call it for one consumer: the update takes the place only if the
--                  position is still the one that was read, else all is read again
create or replace function pgq.next_batch_custom(
    in i_queue_name text, in i_consumer_name text,
    in i_min_lag interval, in i_min_count integer, in i_min_interval interval,
    out batch_id bigint, out cur_tick_id bigint, out prev_tick_id bigint,
    out cur_tick_time timestamptz, out prev_tick_time timestamptz,
    out cur_tick_event_seq bigint, out prev_tick_event_seq bigint)
as $$
declare
    s       record;
    l_next  record;
    l_batch bigint;
begin
    loop
        select u.sub_queue, u.sub_consumer, u.sub_last_tick, u.sub_batch, u.sub_paused,
               p.tick_id as prev_id, p.tick_time as prev_time, p.tick_event_seq as prev_seq,
               c.tick_id as cur_id, c.tick_time as cur_time, c.tick_event_seq as cur_seq
          into s
          from pgq.queue q
          join pgq.subscription u on u.sub_queue = q.queue_id
          join pgq.consumer o on o.co_id = u.sub_consumer
          left join pgq.tick p on p.tick_queue = u.sub_queue and p.tick_id = u.sub_last_tick
          left join pgq.tick c on c.tick_queue = u.sub_queue and c.tick_id = u.sub_next_tick
         where q.queue_name = i_queue_name and o.co_name = i_consumer_name;
        if not found then
            raise exception 'Not subscriber to queue: %/%', i_queue_name, i_consumer_name;
        end if;
        if s.prev_id is null then
            raise exception 'PgQ corruption: Consumer % on queue % does not see tick %',
                    i_consumer_name, i_queue_name, s.sub_last_tick;
        end if;

        if s.sub_batch is not null then
            batch_id := s.sub_batch;
            cur_tick_id := s.cur_id;
            cur_tick_time := s.cur_time;
            cur_tick_event_seq := s.cur_seq;
            prev_tick_id := s.prev_id;
            prev_tick_time := s.prev_time;
            prev_tick_event_seq := s.prev_seq;
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
              from pgq.find_tick_helper(s.sub_queue, s.prev_id, s.prev_time, s.prev_seq,
                                        i_min_count, i_min_interval) h;
        end if;
        if l_next.tick_id is null or now() - l_next.tick_time < i_min_lag then
            return;
        end if;

        l_batch := nextval('pgq.batch_id_seq');
        update pgq.subscription u
           set sub_batch = l_batch, sub_next_tick = l_next.tick_id, sub_active = now()
         where u.sub_queue = s.sub_queue and u.sub_consumer = s.sub_consumer
           and u.sub_batch is null and u.sub_last_tick = s.sub_last_tick;
        if found then
            batch_id := l_batch;
            cur_tick_id := l_next.tick_id;
            cur_tick_time := l_next.tick_time;
            cur_tick_event_seq := l_next.tick_event_seq;
            prev_tick_id := s.prev_id;
            prev_tick_time := s.prev_time;
            prev_tick_event_seq := s.prev_seq;
            return;
        end if;
    end loop;
end;
$$ language plpgsql security definer set search_path = pg_catalog, pg_temp;
