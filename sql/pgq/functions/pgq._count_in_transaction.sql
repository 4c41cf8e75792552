-- pgq._count_in_transaction(queue, id, table, limit, number): count events against the queue's limit
--   errors   Queue allows max n events from one TX
--   note     the count is "transaction:table:events" in a setting that ends with the transaction
create or replace function pgq._count_in_transaction(
    i_queue_name text, i_queue_id integer, i_cur_table integer, i_limit integer, i_number bigint)
returns void as $$
declare
    l_counter   text := 'pgq.tx_events_' || i_queue_id;
    l_count     text[] := string_to_array(current_setting(l_counter, true), ':');
    l_total     bigint := i_number;
begin
    if l_count[1] = txid_current()::text and l_count[2] = i_cur_table::text then
        l_total := l_count[3]::bigint + i_number;
    end if;
    if l_total > i_limit then
        raise exception 'Queue ''%'' allows max % events from one TX', i_queue_name, i_limit;
    end if;
    perform set_config(l_counter, txid_current() || ':' || i_cur_table || ':' || l_total, true);
end;
$$ language plpgsql;
