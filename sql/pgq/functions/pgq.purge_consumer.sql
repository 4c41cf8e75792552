-- pgq.purge_consumer(queue, consumer): skip all events there are, and forget the retried ones
--   (Skytide's addition)
--   returns  the tick it is at then
--   errors   as pgq.seek_consumer; not read committed
--   note     makes a tick, so that events since the last one are skipped too; not where the queue is paused
--            or ticked from outside
create or replace function pgq.purge_consumer(i_queue_name text, i_consumer_name text) returns bigint as $$
declare
    l_tick  bigint;
begin
    perform pgq.tick_now(i_queue_name);
    l_tick := pgq.seek_consumer(
        i_queue_name, i_consumer_name,
        (select max(t.tick_id)
           from pgq.tick t
           join pgq.queue q on q.queue_id = t.tick_queue
          where q.queue_name = i_queue_name));
    delete from pgq.retry_queue r
     using pgq.subscription s, pgq.queue q, pgq.consumer c
     where q.queue_name = i_queue_name and c.co_name = i_consumer_name
       and s.sub_queue = q.queue_id and s.sub_consumer = c.co_id and r.ev_owner = s.sub_id;
    return l_tick;
end;
$$ language plpgsql security definer set search_path = pg_catalog, pg_temp;
