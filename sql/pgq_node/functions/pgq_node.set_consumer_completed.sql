-- pgq_node.set_consumer_completed(queue, consumer, tick): a batch is done; in the transaction that did it
--   codes    100; 404 unknown consumer
--   note     clears the consumer's error. Moving back is allowed: resets and failover do it
create or replace function pgq_node.set_consumer_completed(
    in i_queue_name text, in i_consumer_name text, in i_tick_id bigint,
    out ret_code integer, out ret_note text)
as $$
begin
    update pgq_node.local_state
       set last_tick_id = i_tick_id, cur_error = null
     where queue_name = i_queue_name and consumer_name = i_consumer_name;
    if found then
        ret_code := 100;
        ret_note := 'Consumer ' || i_consumer_name || ' completed tick = ' || i_tick_id;
    else
        ret_code := 404;
        ret_note := 'Consumer not known: ' || i_queue_name || '/' || i_consumer_name;
    end if;
end;
$$ language plpgsql security definer set search_path = pg_catalog, pg_temp;
