-- pgq_node.set_global_watermark(queue, tick): no node of the cascade needs anything before the tick
--   tick     null on a root: the local watermark
--   codes    200; 100 leaf, ignored; 404 no node; 500 null on a branch
--   errors   the tick is not here (root)
--   note     a root tells the others by an event; on a branch that lacks the tick nothing happens
create or replace function pgq_node.set_global_watermark(
    in i_queue_name text, in i_watermark bigint,
    out ret_code integer, out ret_note text)
as $$
declare
    n           record;
    l_watermark bigint := i_watermark;
begin
    select i.node_type, i.worker_name into n
      from pgq_node.node_info i
     where i.queue_name = i_queue_name
       for update;
    if not found then
        ret_code := 404;
        ret_note := 'Queue ' || i_queue_name || ' not found';
        return;
    end if;
    if n.node_type = 'leaf' then
        ret_code := 100;
        ret_note := 'Ignoring global watermark in leaf';
        return;
    end if;

    if n.node_type = 'root' then
        if l_watermark is null then
            select w.local_watermark into l_watermark from pgq_node._watermarks(i_queue_name) w;
            if l_watermark is null then
                raise exception 'local watermark of queue % is not known: it has no ticks', i_queue_name;
            end if;
        end if;
    elsif l_watermark is null then
        ret_code := 500;
        ret_note := 'bad usage: wm=null on branch node';
        return;
    elsif not exists (
        select 1
          from pgq.tick t
          join pgq.queue q on q.queue_id = t.tick_queue
         where q.queue_name = i_queue_name and t.tick_id = l_watermark)
    then
        ret_code := 200;
        ret_note := 'Skipping global watermark update to ' || l_watermark;
        return;
    end if;

    perform pgq.register_consumer_at(i_queue_name, '.global_watermark', l_watermark);
    if n.node_type = 'root' then
        perform pgq.insert_event(i_queue_name, 'pgq.global-watermark', l_watermark::text,
                                 i_queue_name, null, null, null);
        update pgq_node.local_state
           set last_tick_id = l_watermark
         where queue_name = i_queue_name and consumer_name = n.worker_name;
    end if;
    ret_code := 200;
    ret_note := 'Global watermark set to ' || l_watermark;
end;
$$ language plpgsql security definer set search_path = pg_catalog, pg_temp;
