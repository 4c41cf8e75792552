-- pgq_node.unregister_consumer(queue, consumer): forget a cascaded consumer
--   codes    200, also for an unknown one; 404 no node
create or replace function pgq_node.unregister_consumer(
    in i_queue_name text, in i_consumer_name text,
    out ret_code integer, out ret_note text)
as $$
begin
    if not exists (select 1 from pgq_node.node_info n where n.queue_name = i_queue_name) then
        ret_code := 404;
        ret_note := 'Unknown queue: ' || i_queue_name;
        return;
    end if;
    delete from pgq_node.local_state where queue_name = i_queue_name and consumer_name = i_consumer_name;
    ret_code := 200;
    ret_note := 'Consumer ' || i_consumer_name || ' unregistered from ' || i_queue_name;
end;
$$ language plpgsql security definer set search_path = pg_catalog, pg_temp;
