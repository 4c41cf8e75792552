-- pgq_node.get_worker_state(queue): all that the node's worker needs to know, in one call
--   out      local_queue_top is the newest local tick; null on a leaf
--   codes    100; 404 no node, consumer, provider, or combined queue that is no node
create or replace function pgq_node.get_worker_state(
    in i_queue_name text,
    out ret_code integer, out ret_note text, out node_type text, out node_name text,
    out completed_tick bigint, out provider_node text, out provider_location text,
    out paused boolean, out uptodate boolean, out cur_error text, out worker_name text,
    out global_watermark bigint, out local_watermark bigint, out local_queue_top bigint,
    out combined_queue text, out combined_type text)
as $$
begin
    select n.worker_name, n.combined_queue into worker_name, combined_queue
      from pgq_node.node_info n
     where n.queue_name = i_queue_name;
    if not found then
        ret_code := 404;
        ret_note := 'Unknown queue: ' || i_queue_name;
        return;
    end if;

    select s.ret_code, s.ret_note, s.node_type, s.node_name, s.completed_tick, s.provider_node,
           s.provider_location, s.paused, s.uptodate, s.cur_error
      into ret_code, ret_note, node_type, node_name, completed_tick, provider_node,
           provider_location, paused, uptodate, cur_error
      from pgq_node.get_consumer_state(i_queue_name, worker_name) s;
    if ret_code >= 400 then
        return;
    end if;

    if combined_queue is not null then
        select n.node_type into combined_type
          from pgq_node.node_info n
         where n.queue_name = get_worker_state.combined_queue;
        if not found then
            ret_code := 404;
            ret_note := 'Combined queue node not found: ' || combined_queue;
            return;
        end if;
    end if;

    select w.global_watermark, w.local_watermark, w.queue_top
      into global_watermark, local_watermark, local_queue_top
      from pgq_node._watermarks(i_queue_name) w;
end;
$$ language plpgsql security definer set search_path = pg_catalog, pg_temp;
