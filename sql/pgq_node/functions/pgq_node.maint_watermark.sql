-- pgq_node.maint_watermark(queue): on a root, move a global watermark that is five minutes behind
--   returns  0
create or replace function pgq_node.maint_watermark(i_queue_name text) returns integer as $$
begin
    if exists (
        select 1
          from pgq_node.node_info n
         where n.queue_name = i_queue_name and n.node_type = 'root')
        and exists (
        select 1
          from pgq.get_consumer_info(i_queue_name, '.global_watermark') c
         where c.lag >= interval '5 minutes')
    then
        perform pgq_node.set_global_watermark(i_queue_name, null);
    end if;
    return 0;
end;
$$ language plpgsql;
