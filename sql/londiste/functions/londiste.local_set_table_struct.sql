-- londiste.local_set_table_struct(queue, table, DDL): store what was dropped for the copy
--   codes    200; 404 not attached under this very name
--   errors   check violation: the state is neither in-copy nor catching-up
create or replace function londiste.local_set_table_struct(
    in i_queue_name text, in i_table_name text, in i_dropped_ddl text,
    out ret_code integer, out ret_note text)
as $$
begin
    update londiste.table_info
       set dropped_ddl = i_dropped_ddl
     where queue_name = i_queue_name and table_name = i_table_name and local;
    if found then
        ret_code := 200;
        ret_note := 'Table struct stored';
    else
        ret_code := 404;
        ret_note := 'no such local table: ' || i_table_name;
    end if;
end;
$$ language plpgsql;
