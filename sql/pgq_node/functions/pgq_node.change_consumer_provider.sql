-- pgq_node.change_consumer_provider(queue, consumer, node): let a consumer read from another node
--   codes    200; 404 node or consumer unknown
--   note     clears uptodate: the consumer sets it when it has seen the change
create or replace function pgq_node.change_consumer_provider(
    in i_queue_name text, in i_consumer_name text, in i_new_provider text,
    out ret_code integer, out ret_note text)
as $$
begin
    if not exists (
        select 1 from pgq_node.node_location l
         where l.queue_name = i_queue_name and l.node_name = i_new_provider)
    then
        ret_code := 404;
        ret_note := 'New node not found: ' || i_new_provider;
        return;
    end if;
    update pgq_node.local_state
       set provider_node = i_new_provider, uptodate = false
     where queue_name = i_queue_name and consumer_name = i_consumer_name;
    if not found then
        ret_code := 404;
        ret_note := 'Unknown consumer: ' || i_queue_name || '/' || i_consumer_name;
        return;
    end if;
    ret_code := 200;
    ret_note := 'Consumer provider node set to : ' || i_new_provider;
end;
$$ language plpgsql security definer set search_path = pg_catalog, pg_temp;
