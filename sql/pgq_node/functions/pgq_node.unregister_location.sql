-- pgq_node.unregister_location(queue, node): forget a node; it is no subscriber any more either
--   codes    200; 301 not known; 403 it is this node, its provider, or a consumer's provider
--   note     a root tells the others by an event, if there was something to forget
create or replace function pgq_node.unregister_location(
    in i_queue_name text, in i_node_name text,
    out ret_code integer, out ret_note text)
as $$
declare
    n           record;
    l_consumer  text;
begin
    select i.node_name, i.node_type, s.provider_node
      into n
      from pgq_node.node_info i
      left join pgq_node.local_state s on s.queue_name = i.queue_name and s.consumer_name = i.worker_name
     where i.queue_name = i_queue_name;
    if found then
        if n.node_name = i_node_name then
            ret_code := 403;
            ret_note := 'Cannot drop node''s own location';
            return;
        end if;
        if n.provider_node = i_node_name then
            ret_code := 403;
            ret_note := 'Cannot drop location of node''s parent';
            return;
        end if;
        select s.consumer_name into l_consumer
          from pgq_node.local_state s
         where s.queue_name = i_queue_name and s.provider_node = i_node_name
         order by s.consumer_name
         limit 1;
        if found then
            ret_code := 403;
            ret_note := 'Cannot drop location, consumer reads from it: ' || l_consumer;
            return;
        end if;
    end if;

    perform pgq_node.unregister_subscriber(i_queue_name, i_node_name);
    delete from pgq_node.node_location where queue_name = i_queue_name and node_name = i_node_name;
    if not found then
        ret_code := 301;
        ret_note := 'Location not found: ' || i_queue_name || '/' || i_node_name;
        return;
    end if;
    if n.node_type = 'root' then
        perform pgq.insert_event(i_queue_name, 'pgq.unregister-location', i_node_name,
                                 i_queue_name, null, null, null);
    end if;
    ret_code := 200;
    ret_note := 'Ok';
end;
$$ language plpgsql security definer set search_path = pg_catalog, pg_temp;
