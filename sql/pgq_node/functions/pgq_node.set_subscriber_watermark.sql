-- pgq_node.set_subscriber_watermark(queue, node, tick): a subscriber and those behind it need nothing before the tick
--   codes    200; 100 it is there; 404 not subscribed; 405 backwards
--   errors   the tick is not here
create or replace function pgq_node.set_subscriber_watermark(
    in i_queue_name text, in i_node_name text, in i_watermark bigint,
    out ret_code integer, out ret_note text)
as $$
declare
    s   record;
begin
    select i.watermark_name, u.sub_last_tick
      into s
      from pgq_node.subscriber_info i
      left join pgq.queue q on q.queue_name = i.queue_name
      left join pgq.consumer c on c.co_name = i.watermark_name
      left join pgq.subscription u on u.sub_queue = q.queue_id and u.sub_consumer = c.co_id
     where i.queue_name = i_queue_name and i.subscriber_node = i_node_name;
    if not found then
        ret_code := 404;
        ret_note := format('node %s not subscribed to queue %s', i_node_name, i_queue_name);
        return;
    end if;
    if i_watermark < s.sub_last_tick then
        ret_code := 405;
        ret_note := 'watermark must not be moved backwards';
        return;
    end if;
    if i_watermark = s.sub_last_tick then
        ret_code := 100;
        ret_note := 'watermark already set';
        return;
    end if;
    perform pgq.register_consumer_at(i_queue_name, s.watermark_name, i_watermark);
    ret_code := 200;
    ret_note := s.watermark_name || ' set to ' || i_watermark;
end;
$$ language plpgsql security definer set search_path = pg_catalog, pg_temp;
