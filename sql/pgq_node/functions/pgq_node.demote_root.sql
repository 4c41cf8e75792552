-- pgq_node.demote_root(queue, step, new provider): turn the root into a branch, each step a transaction
--   step 1   no inserts and no ticks from here on
--   step 2   wait for writers, make the last tick
--   step 3   become a branch of the new provider
--   out      last_tick, in steps 2 and 3
--   codes    200; 301 not the root; 404 no node, no queue
--   errors   incorrect step number; steps in wrong order; 23503 location of the provider not registered
--   hazard   step 2 leaves session_replication_role = replica to the end of the transaction
create or replace function pgq_node.demote_root(
    in i_queue_name text, in i_step integer, in i_new_provider text,
    out ret_code integer, out ret_note text, out last_tick bigint)
as $$
declare
    n   record;
    q   record;
begin
    select i.node_type, i.worker_name into n
      from pgq_node.node_info i
     where i.queue_name = i_queue_name
       for update;
    if not found then
        ret_code := 404;
        ret_note := 'Node not initialized for queue: ' || i_queue_name;
        return;
    end if;
    if n.node_type <> 'root' then
        ret_code := 301;
        ret_note := 'Node not root';
        return;
    end if;
    select t.queue_id, t.queue_data_pfx, t.queue_tick_seq, t.queue_event_seq,
           t.queue_disable_insert and t.queue_external_ticker as closed
      into q
      from pgq.queue t
     where t.queue_name = i_queue_name;
    if not found then
        ret_code := 404;
        ret_note := 'Huh, no queue?: ' || i_queue_name;
        return;
    end if;
    if i_step in (2, 3) and not q.closed then
        raise exception 'steps in wrong order';
    end if;

    if i_step = 1 then
        -- the row before the ticks, as pgq.drop_queue() takes them
        perform 1 from pgq.queue t where t.queue_id = q.queue_id for update;
        perform pgq._lock_ticks(q.queue_id);
        update pgq.queue set queue_disable_insert = true, queue_external_ticker = true
         where queue_name = i_queue_name;
        ret_note := 'Step 1: Writing disabled for: ' || i_queue_name;
    elsif i_step = 2 then
        execute format('lock table %s in exclusive mode', pgq.quote_fqname(q.queue_data_pfx));
        set local session_replication_role = 'replica';
        last_tick := nextval(pgq.quote_fqname(q.queue_tick_seq)::regclass);
        perform pgq.ticker(i_queue_name, last_tick, now(),
                           nextval(pgq.quote_fqname(q.queue_event_seq)::regclass));
        ret_note := 'Step 2: Inserted last tick: ' || last_tick;
    elsif i_step = 3 then
        select max(t.tick_id) into last_tick from pgq.tick t where t.tick_queue = q.queue_id;
        update pgq_node.node_info set node_type = 'branch' where queue_name = i_queue_name;
        update pgq_node.local_state
           set provider_node = i_new_provider, last_tick_id = last_tick, uptodate = false
         where queue_name = i_queue_name and consumer_name = n.worker_name;
        ret_note := 'Step 3: Demoted root to branch: ' || i_queue_name;
    else
        raise exception 'incorrect step number';
    end if;
    ret_code := 200;
end;
$$ language plpgsql security definer set search_path = pg_catalog, pg_temp;
