-- londiste.local_set_table_attrs(queue, table, attributes): store an attached table's urlencoded attributes
--   codes    200; 404 not attached under this very name
create or replace function londiste.local_set_table_attrs(
    in i_queue_name text, in i_table_name text, in i_table_attrs text,
    out ret_code integer, out ret_note text)
as $$
begin
    update londiste.table_info
       set table_attrs = i_table_attrs
     where queue_name = i_queue_name and table_name = i_table_name and local;
    if found then
        ret_code := 200;
        ret_note := i_table_name || ': Table attributes stored';
    else
        ret_code := 404;
        ret_note := 'no such local table: ' || i_table_name;
    end if;
end;
$$ language plpgsql;
