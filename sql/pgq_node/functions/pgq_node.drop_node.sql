-- pgq_node.drop_node(queue, node): remove a node; run on every member of the cascade
--   codes    200, also for a name that is not known; 405 it is this node's provider; 403 a consumer reads
--            from it
--   note     for the local node everything of the queue goes, its pgq queue too if it was a node's: a plain
--            queue of the same name stays
create or replace function pgq_node.drop_node(
    in i_queue_name text, in i_node_name text,
    out ret_code integer, out ret_note text)
as $$
declare
    n           record;
    l_is_member boolean;
begin
    select i.node_name, s.provider_node
      into n
      from pgq_node.node_info i
      left join pgq_node.local_state s on s.queue_name = i.queue_name and s.consumer_name = i.worker_name
     where i.queue_name = i_queue_name;
    l_is_member := found;

    if l_is_member and n.node_name <> i_node_name then
        if n.provider_node = i_node_name then
            ret_code := 405;
            ret_note := 'Cannot drop provider node: ' || i_node_name;
            return;
        end if;
        select f.ret_code, f.ret_note into ret_code, ret_note
          from pgq_node.unregister_location(i_queue_name, i_node_name) f;
        if ret_code >= 400 then
            return;
        end if;
    else
        delete from pgq_node.subscriber_info where queue_name = i_queue_name;
        delete from pgq_node.local_state where queue_name = i_queue_name;
        delete from pgq_node.node_info where queue_name = i_queue_name;
        if exists (
            select 1
              from pgq.queue q
             where q.queue_name = i_queue_name
               and (l_is_member
                    or q.queue_external_ticker
                    or exists (
                        select 1
                          from pgq.subscription s
                          join pgq.consumer c on c.co_id = s.sub_consumer
                         where s.sub_queue = q.queue_id and c.co_name = '.global_watermark')))
        then
            perform pgq.drop_queue(i_queue_name, true);
        end if;
        delete from pgq_node.node_location where queue_name = i_queue_name;
    end if;
    ret_code := 200;
    ret_note := 'Node dropped: ' || i_node_name;
end;
$$ language plpgsql security definer set search_path = pg_catalog, pg_temp;
