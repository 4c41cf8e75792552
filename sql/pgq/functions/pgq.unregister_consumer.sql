-- pgq.unregister_consumer(queue, consumer): end a subscription, with its retry events
--   returns  number of subscriptions removed: a main consumer takes its subconsumers along; 0 if there
--            was none
--   note     a row is a subconsumer if another row of its sub_id is named as its prefix: "main" of "main.part"
create or replace function pgq.unregister_consumer(x_queue_name text, x_consumer_name text)
returns integer as $$
declare
    l_sub       record;
    l_removed   integer[];
begin
    select s.sub_id, s.sub_queue, s.sub_consumer
      into l_sub
      from pgq.subscriber s
      join pgq.queue q on q.queue_id = s.sub_queue
      join pgq.consumer c on c.co_id = s.sub_consumer
     where q.queue_name = x_queue_name and c.co_name = x_consumer_name
       for update of s, c;
    if not found then
        return 0;
    end if;

    if exists (
        select 1
          from pgq.subscriber m
          join pgq.consumer c on c.co_id = m.sub_consumer
         where m.sub_queue = l_sub.sub_queue and m.sub_id = l_sub.sub_id
           and m.sub_consumer <> l_sub.sub_consumer
           and starts_with(x_consumer_name, c.co_name || '.'))
    then
        l_removed := array[l_sub.sub_consumer];
        delete from pgq.subscriber
         where sub_queue = l_sub.sub_queue and sub_consumer = l_sub.sub_consumer;
    else
        delete from pgq.retry_queue where ev_owner = l_sub.sub_id;
        with gone as (
            delete from pgq.subscriber where sub_id = l_sub.sub_id returning sub_consumer)
        select array_agg(g.sub_consumer) into l_removed from gone g;
    end if;
    delete from pgq.consumer c
     where c.co_id = any (l_removed)
       and not exists (select 1 from pgq.subscriber s where s.sub_consumer = c.co_id);
    return cardinality(l_removed);
end;
$$ language plpgsql security definer set search_path = pg_catalog, pg_temp;
