-- londiste.global_remove_table(queue, table): the queue does not carry the table any more
--   codes    200; 400 not there
--   errors   queue does not exist
create or replace function londiste.global_remove_table(
    in i_queue_name text, in i_table_name text,
    out ret_code integer, out ret_note text)
as $$
declare
    l_fqname    text := londiste.make_fqname(i_table_name);
begin
    if not pgq_node.is_root_node(i_queue_name) then
        perform londiste.local_remove_table(i_queue_name, l_fqname);
    end if;
    delete from londiste.table_info where queue_name = i_queue_name and table_name = l_fqname;
    if not found then
        ret_code := 400;
        ret_note := 'Table not found: ' || l_fqname;
        return;
    end if;
    ret_code := 200;
    ret_note := 'Table removed: ' || i_table_name;
end;
$$ language plpgsql strict;
