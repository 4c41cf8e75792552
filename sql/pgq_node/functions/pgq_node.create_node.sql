-- pgq_node.create_node(queue, type, node, worker, provider, watermark, combined queue): make this database a node
--   root     makes the queue, or takes the one there is
--   branch   makes the queue with ticks from outside, starting at the watermark
--   leaf     makes no queue; a combined queue must exist
--   codes    200; 401 there is a node, bad type, arguments that do not belong to the type
--   errors   23503 the node's location is not registered; 23502 a leaf without provider or watermark
create or replace function pgq_node.create_node(
    in i_queue_name text, in i_node_type text, in i_node_name text, in i_worker_name text,
    in i_provider_name text, in i_global_watermark bigint, in i_combined_queue text,
    out ret_code integer, out ret_note text)
as $$
declare
    l_last_tick bigint := i_global_watermark;
    l_provider  text := i_provider_name;
    q           record;
begin
    ret_code := 401;
    if exists (select 1 from pgq_node.node_info n where n.queue_name = i_queue_name) then
        ret_note := 'Node already initialized';
        return;
    end if;
    if i_node_type is null or i_node_type not in ('root', 'branch', 'leaf') then
        ret_note := 'bad node type: ' || coalesce(i_node_type, '<NULL>');
        return;
    end if;
    if i_node_type = 'root' and coalesce(i_provider_name, i_global_watermark::text, i_combined_queue) is not null then
        ret_note := 'unexpected args for ' || i_node_type;
        return;
    end if;
    if i_node_type = 'branch' and i_provider_name is null then
        ret_note := 'provider not set for ' || i_node_type;
        return;
    end if;
    if i_node_type = 'branch' and i_global_watermark is null then
        ret_note := 'global watermark not set for ' || i_node_type;
        return;
    end if;
    if i_node_type = 'leaf' and i_combined_queue is not null
        and not exists (select 1 from pgq.queue t where t.queue_name = i_combined_queue)
    then
        ret_note := 'non-existing queue on leaf side: ' || i_combined_queue;
        return;
    end if;

    if i_node_type = 'root' then
        perform pgq.create_queue(i_queue_name);
        perform pgq.register_consumer(i_queue_name, '.global_watermark');
        l_provider := i_node_name;
        select s.sub_last_tick into strict l_last_tick
          from pgq.subscription s
          join pgq.queue t on t.queue_id = s.sub_queue
          join pgq.consumer c on c.co_id = s.sub_consumer
         where t.queue_name = i_queue_name and c.co_name = '.global_watermark';
    elsif i_node_type = 'branch' then
        perform pgq.create_queue(i_queue_name);
        update pgq.queue t
           set queue_external_ticker = true, queue_disable_insert = true
         where t.queue_name = i_queue_name
        returning t.queue_id, t.queue_tick_seq into q;
        if i_global_watermark > 1
            and not exists (
                select 1 from pgq.tick t where t.tick_queue = q.queue_id and t.tick_id = i_global_watermark)
        then
            -- not pgq.ticker(4): a queue that was there before may have newer ticks
            perform pgq._lock_ticks(q.queue_id);
            insert into pgq.tick (tick_queue, tick_id, tick_time, tick_snapshot, tick_event_seq)
            values (q.queue_id, i_global_watermark, now(), txid_current_snapshot(), 1);
            perform pgq.seq_setval(q.queue_tick_seq, i_global_watermark);
        end if;
        perform pgq.register_consumer_at(i_queue_name, '.global_watermark', i_global_watermark);
    end if;

    insert into pgq_node.node_info (queue_name, node_type, node_name, worker_name, combined_queue)
    values (i_queue_name, i_node_type, i_node_name, i_worker_name, i_combined_queue);
    insert into pgq_node.local_state (queue_name, consumer_name, provider_node, last_tick_id)
    values (i_queue_name, i_worker_name, l_provider, l_last_tick);
    ret_code := 200;
    ret_note := format('Node "%s" initialized for queue "%s" with type "%s"',
                       i_node_name, i_queue_name, i_node_type);
end;
$$ language plpgsql security definer set search_path = pg_catalog, pg_temp;
