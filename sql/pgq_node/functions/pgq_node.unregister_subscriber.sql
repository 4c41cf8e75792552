-- pgq_node.unregister_subscriber(queue, node): end a node's reading from this one
--   codes    200; 304 not subscribed
create or replace function pgq_node.unregister_subscriber(
    in i_queue_name text, in i_remote_node_name text,
    out ret_code integer, out ret_note text)
as $$
declare
    s   record;
begin
    delete from pgq_node.subscriber_info
     where queue_name = i_queue_name and subscriber_node = i_remote_node_name
    returning worker_name, watermark_name into s;
    if not found then
        ret_code := 304;
        ret_note := 'Subscriber not found';
        return;
    end if;
    perform pgq.unregister_consumer(i_queue_name, s.watermark_name);
    perform pgq.unregister_consumer(i_queue_name, s.worker_name);
    ret_code := 200;
    ret_note := 'Subscriber unregistered: ' || i_remote_node_name;
end;
$$ language plpgsql security definer set search_path = pg_catalog, pg_temp;
