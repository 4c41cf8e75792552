-- pgq.get_consumer_info(): positions of all consumers in all queues
create or replace function pgq.get_consumer_info(
    out queue_name text, out consumer_name text, out lag interval, out last_seen interval,
    out last_tick bigint, out current_batch bigint, out next_tick bigint, out pending_events bigint)
returns setof record as $$
begin
    return query select i.* from pgq.get_consumer_info(null, null) i;
end;
$$ language plpgsql security definer set search_path = pg_catalog, pg_temp;

-- pgq.get_consumer_info(queue): positions of all consumers in a queue
create or replace function pgq.get_consumer_info(
    in i_queue_name text,
    out queue_name text, out consumer_name text, out lag interval, out last_seen interval,
    out last_tick bigint, out current_batch bigint, out next_tick bigint, out pending_events bigint)
returns setof record as $$
begin
    return query select i.* from pgq.get_consumer_info(i_queue_name, null) i;
end;
$$ language plpgsql security definer set search_path = pg_catalog, pg_temp;

-- pgq.get_consumer_info(queue, consumer): position of a consumer; null stands for all
--   out      lag is the age of the last finished tick; last_seen of the consumer's last action;
--            pending_events is the move of the event sequence since the last finished tick
create or replace function pgq.get_consumer_info(
    in i_queue_name text, in i_consumer_name text,
    out queue_name text, out consumer_name text, out lag interval, out last_seen interval,
    out last_tick bigint, out current_batch bigint, out next_tick bigint, out pending_events bigint)
returns setof record as $$
begin
    return query
    select q.queue_name, c.co_name, current_timestamp - t.tick_time, current_timestamp - s.sub_active,
           s.sub_last_tick, s.sub_batch, s.sub_next_tick,
           (select n.tick_event_seq
              from pgq.tick n
             where n.tick_queue = q.queue_id
             order by n.tick_id desc
             limit 1) - t.tick_event_seq
      from pgq.subscription s
      join pgq.queue q on q.queue_id = s.sub_queue
      join pgq.consumer c on c.co_id = s.sub_consumer
      left join pgq.tick t on t.tick_queue = s.sub_queue and t.tick_id = s.sub_last_tick
     where (i_queue_name is null or q.queue_name = i_queue_name)
       and (i_consumer_name is null or c.co_name = i_consumer_name)
     order by q.queue_name, c.co_name;
end;
$$ language plpgsql security definer set search_path = pg_catalog, pg_temp;
