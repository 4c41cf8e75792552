-- londiste.local_set_table_state(queue, table, snapshot, state): store how far an attached table is
--   codes    200; 404 not attached
--   note     snapshot and state are stored together, nulls too; the text is not checked
create or replace function londiste.local_set_table_state(
    in i_queue_name text, in i_table_name text, in i_snapshot text, in i_merge_state text,
    out ret_code integer, out ret_note text)
as $$
declare
    l_fqname    text := londiste.make_fqname(i_table_name);
begin
    update londiste.table_info
       set custom_snapshot = i_snapshot, merge_state = i_merge_state
     where queue_name = i_queue_name and table_name = l_fqname and local;
    if not found then
        ret_code := 404;
        ret_note := 'No such table: ' || l_fqname;
        return;
    end if;
    if i_merge_state is null then
        perform pgq_node._changed(i_queue_name); -- a new copy is wanted
    end if;
    ret_code := 200;
    ret_note := 'Table ' || l_fqname || ' state set to ' || quote_nullable(i_merge_state);
end;
$$ language plpgsql;
