-- pgq_node.register_subscriber(queue, node, worker, tick): let a node read from this one
--   tick     where its worker starts; null: at the global watermark
--   out      global_watermark, where the new node begins
--   codes    200; 401 leaf; 404 no node
--   errors   23505 is subscribed; 23503 location not registered
create or replace function pgq_node.register_subscriber(
    in i_queue_name text, in i_remote_node_name text, in i_remote_worker_name text, in i_custom_tick_id bigint,
    out ret_code integer, out ret_note text, out global_watermark bigint)
as $$
declare
    l_type      text;
    l_watermark text := '.' || i_remote_node_name || '.watermark';
begin
    select n.node_type into l_type from pgq_node.node_info n where n.queue_name = i_queue_name;
    if not found then
        ret_code := 404;
        ret_note := 'Unknown queue: ' || i_queue_name;
        return;
    end if;
    if l_type = 'leaf' then
        ret_code := 401;
        ret_note := 'Cannot subscribe to leaf node';
        return;
    end if;

    select w.global_watermark into global_watermark from pgq_node._watermarks(i_queue_name) w;
    perform pgq.register_consumer_at(i_queue_name, l_watermark, global_watermark);
    perform pgq.register_consumer_at(i_queue_name, i_remote_worker_name,
                                     coalesce(i_custom_tick_id, global_watermark));
    insert into pgq_node.subscriber_info (queue_name, subscriber_node, worker_name, watermark_name)
    values (i_queue_name, i_remote_node_name, i_remote_worker_name, l_watermark);
    ret_code := 200;
    ret_note := 'Subscriber registered: ' || i_remote_node_name;
end;
$$ language plpgsql security definer set search_path = pg_catalog, pg_temp;
