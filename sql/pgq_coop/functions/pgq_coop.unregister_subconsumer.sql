-- pgq_coop.unregister_subconsumer(queue, consumer, subconsumer, batch handling): take a subconsumer away
--   batch handling  1: its open batch is dropped, and the events stay unprocessed; else it is refused
--   returns         1; 0 if it was not registered
--   errors          subconsumer has active batch
create or replace function pgq_coop.unregister_subconsumer(
    i_queue_name text, i_consumer_name text, i_subconsumer_name text, i_batch_handling integer)
returns integer as $$
declare
    s   record;
begin
    select u.sub_queue, u.sub_consumer
      into s
      from pgq.queue q
      join pgq.consumer mc on mc.co_name = i_consumer_name
      join pgq.subscriber m on m.sub_queue = q.queue_id and m.sub_consumer = mc.co_id
      join pgq.consumer c on c.co_name = i_consumer_name || '.' || i_subconsumer_name
      join pgq.subscriber u on u.sub_queue = q.queue_id and u.sub_consumer = c.co_id and u.sub_id = m.sub_id
     where q.queue_name = i_queue_name
       for update of u, c;
    if not found then
        return 0;
    end if;
    if i_batch_handling is distinct from 1
        and exists (
            select 1 from pgq.subscription u
             where u.sub_queue = s.sub_queue and u.sub_consumer = s.sub_consumer and u.sub_batch is not null)
    then
        raise exception 'subconsumer has active batch';
    end if;
    delete from pgq.subscriber
     where sub_queue = s.sub_queue and sub_consumer = s.sub_consumer;
    delete from pgq.consumer
     where co_id = s.sub_consumer
       and not exists (select 1 from pgq.subscriber o where o.sub_consumer = s.sub_consumer);
    return 1;
end;
$$ language plpgsql security definer set search_path = pg_catalog, pg_temp;
