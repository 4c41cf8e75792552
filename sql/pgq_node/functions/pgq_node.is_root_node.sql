-- pgq_node.is_root_node(queue): whether this database is the queue's root
--   errors   queue does not exist
create or replace function pgq_node.is_root_node(i_queue_name text) returns boolean as $$
declare
    l_type  text;
begin
    select n.node_type into l_type from pgq_node.node_info n where n.queue_name = i_queue_name;
    if not found then
        raise exception 'queue does not exist: %', i_queue_name;
    end if;
    return l_type = 'root';
end;
$$ language plpgsql security definer set search_path = pg_catalog, pg_temp;
