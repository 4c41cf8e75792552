-- pgq_node.promote_branch(queue): turn a branch into the root
--   codes    200; 301 not a branch; 404 no node
create or replace function pgq_node.promote_branch(
    in i_queue_name text,
    out ret_code integer, out ret_note text)
as $$
declare
    n       record;
    q       record;
    l_tick  bigint;
begin
    select i.node_type, i.node_name, i.worker_name into n
      from pgq_node.node_info i
     where i.queue_name = i_queue_name
       for update;
    if not found then
        ret_code := 404;
        ret_note := 'Node not initialized for queue: ' || i_queue_name;
        return;
    end if;
    if n.node_type <> 'branch' then
        ret_code := 301;
        ret_note := 'Node not branch';
        return;
    end if;

    update pgq.queue t
       set queue_disable_insert = false, queue_external_ticker = false
     where t.queue_name = i_queue_name
    returning t.queue_id, t.queue_tick_seq into strict q;
    select max(t.tick_id) into l_tick from pgq.tick t where t.tick_queue = q.queue_id;
    perform pgq.seq_setval(q.queue_tick_seq, l_tick);
    update pgq_node.node_info set node_type = 'root' where queue_name = i_queue_name;
    update pgq_node.local_state
       set provider_node = n.node_name, last_tick_id = l_tick, uptodate = false
     where queue_name = i_queue_name and consumer_name = n.worker_name;
    ret_code := 200;
    ret_note := 'Branch node promoted to root';
end;
$$ language plpgsql security definer set search_path = pg_catalog, pg_temp;
