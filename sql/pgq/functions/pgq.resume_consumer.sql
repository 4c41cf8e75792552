-- pgq.resume_consumer(queue, consumer): give a paused consumer batches again (Skytide's addition)
--   returns  1; 0 if it was not paused
--   errors   Not subscriber to queue
create or replace function pgq.resume_consumer(i_queue_name text, i_consumer_name text) returns integer as $$
declare
    s   record;
begin
    select u.sub_queue, u.sub_consumer, u.sub_paused into s
      from pgq.subscriber u
      join pgq.queue q on q.queue_id = u.sub_queue
      join pgq.consumer c on c.co_id = u.sub_consumer
     where q.queue_name = i_queue_name and c.co_name = i_consumer_name
       for update of u;
    if not found then
        raise exception 'Not subscriber to queue: %/%',
            coalesce(i_queue_name, 'NULL'), coalesce(i_consumer_name, 'NULL');
    end if;
    update pgq.subscriber
       set sub_paused = false
     where sub_queue = s.sub_queue and sub_consumer = s.sub_consumer and sub_paused;
    return found::integer;
end;
$$ language plpgsql security definer set search_path = pg_catalog, pg_temp;
