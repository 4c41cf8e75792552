-- pgq_node.register_location(queue, node, location, dead): make a node known, or change what is known
--   location  null keeps the old one
--   codes     200
--   note      a root tells the others by an event
create or replace function pgq_node.register_location(
    in i_queue_name text, in i_node_name text, in i_node_location text, in i_dead boolean,
    out ret_code integer, out ret_note text)
as $$
begin
    update pgq_node.node_location
       set node_location = coalesce(i_node_location, node_location), dead = i_dead
     where queue_name = i_queue_name and node_name = i_node_name;
    if not found and i_node_location is not null then
        insert into pgq_node.node_location (queue_name, node_name, node_location, dead)
        values (i_queue_name, i_node_name, i_node_location, i_dead);
    end if;

    if exists (
        select 1 from pgq_node.node_info n where n.queue_name = i_queue_name and n.node_type = 'root')
    then
        perform pgq.insert_event(i_queue_name, 'pgq.location-info', i_node_name,
                                 i_queue_name, i_node_location, i_dead::text, null);
    end if;
    ret_code := 200;
    ret_note := 'Location registered';
end;
$$ language plpgsql security definer set search_path = pg_catalog, pg_temp;
