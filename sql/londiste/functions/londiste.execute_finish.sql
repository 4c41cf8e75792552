-- londiste.execute_finish(queue, file): a SQL file is done; a root sends it on
--   codes    200; 404 not started
create or replace function londiste.execute_finish(
    in i_queue_name text, in i_file_name text,
    out ret_code integer, out ret_note text)
as $$
declare
    e   record;
begin
    select a.execute_sql, a.execute_attrs into e
      from londiste.applied_execute a
     where a.execute_file = i_file_name;
    if not found then
        ret_code := 404;
        ret_note := 'execute_file called without execute_start';
        return;
    end if;
    -- the tables may have other columns now
    perform londiste._compile_triggers(i_queue_name);
    if pgq_node.is_root_node(i_queue_name) then
        perform pgq.insert_event(i_queue_name, 'EXECUTE', e.execute_sql,
                                 i_file_name, e.execute_attrs, null, null);
    end if;
    ret_code := 200;
    ret_note := 'Execute finished: ' || i_file_name;
end;
$$ language plpgsql strict;
