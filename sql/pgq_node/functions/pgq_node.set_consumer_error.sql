-- pgq_node.set_consumer_error(queue, consumer, message): remember what a consumer failed with
--   codes    100; 101 unknown consumer, ignored
create or replace function pgq_node.set_consumer_error(
    in i_queue_name text, in i_consumer_name text, in i_error_msg text,
    out ret_code integer, out ret_note text)
as $$
begin
    update pgq_node.local_state
       set cur_error = i_error_msg
     where queue_name = i_queue_name and consumer_name = i_consumer_name;
    if found then
        ret_code := 100;
        ret_note := 'Consumer ' || i_consumer_name || ' error = ' || i_error_msg;
    else
        ret_code := 101;
        ret_note := 'Consumer not known, ignoring: ' || i_queue_name || '/' || i_consumer_name;
    end if;
end;
$$ language plpgsql security definer set search_path = pg_catalog, pg_temp;
