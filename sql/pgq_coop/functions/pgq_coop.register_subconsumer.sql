-- pgq_coop.register_subconsumer(queue, consumer, subconsumer): let a subconsumer share a consumer's batches
--   returns  1 new; 0 was registered
--   errors   those of pgq.register_consumer; the name is taken by a consumer with a position of its own
--   note     registers the consumer too, from the newest tick on, if need be
create or replace function pgq_coop.register_subconsumer(
    i_queue_name text, i_consumer_name text, i_subconsumer_name text)
returns integer as $$
declare
    l_name      text := i_consumer_name || '.' || i_subconsumer_name;
    l_is_new    integer;
    l_main      record;
    l_sub       record;
begin
    perform pgq.register_consumer(i_queue_name, i_consumer_name);
    l_is_new := pgq.register_consumer(i_queue_name, l_name);

    select s.sub_id, s.sub_queue into l_main
      from pgq.subscriber s
      join pgq.queue q on q.queue_id = s.sub_queue
      join pgq.consumer c on c.co_id = s.sub_consumer
     where q.queue_name = i_queue_name and c.co_name = i_consumer_name;

    select s.sub_id, s.sub_consumer into l_sub
      from pgq.subscriber s
      join pgq.consumer c on c.co_id = s.sub_consumer
     where s.sub_queue = l_main.sub_queue and c.co_name = l_name;
    if l_is_new = 0 then
        if l_sub.sub_id <> l_main.sub_id then
            raise exception 'consumer % on queue % is not a subconsumer of %', l_name, i_queue_name, i_consumer_name
                using hint = 'Unregister it, or use another name.';
        end if;
        return 0;
    end if;

    update pgq.subscriber
       set sub_id = l_main.sub_id
     where sub_queue = l_main.sub_queue and sub_consumer = l_sub.sub_consumer;
    perform pgq._put_position(l_main.sub_queue, l_sub.sub_consumer, null, null, null, null);
    return 1;
end;
$$ language plpgsql security definer set search_path = pg_catalog, pg_temp;
