-- pgq_node._watermarks(queue): how far everybody is, and the node itself
--   out      root, branch: global_watermark is the position of ".global_watermark", local_watermark the
--            lowest of all other consumers, or the newest tick if there are none; queue_top is that tick.
--            leaf: local_watermark is the worker's tick, the others are null
create or replace function pgq_node._watermarks(
    in i_queue_name text,
    out global_watermark bigint, out local_watermark bigint, out queue_top bigint)
as $$
declare
    n           record;
    l_queue_id  integer;
begin
    select i.node_type, i.worker_name into n from pgq_node.node_info i where i.queue_name = i_queue_name;
    if n.node_type = 'leaf' then
        select s.last_tick_id into local_watermark
          from pgq_node.local_state s
         where s.queue_name = i_queue_name and s.consumer_name = n.worker_name;
        return;
    end if;

    select q.queue_id into l_queue_id from pgq.queue q where q.queue_name = i_queue_name;
    select max(t.tick_id) into queue_top from pgq.tick t where t.tick_queue = l_queue_id;
    select min(s.sub_last_tick) filter (where c.co_name = '.global_watermark'),
           coalesce(min(s.sub_last_tick) filter (where c.co_name <> '.global_watermark'), queue_top)
      into global_watermark, local_watermark
      from pgq.subscription s
      join pgq.consumer c on c.co_id = s.sub_consumer
     where s.sub_queue = l_queue_id;
end;
$$ language plpgsql;
