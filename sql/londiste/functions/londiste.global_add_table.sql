-- londiste.global_add_table(queue, table): make a table known to the queue, attached nowhere
--   codes    200 also if it was; 400 no node
--   note     a merge leaf tells its combined queue as well
create or replace function londiste.global_add_table(
    in i_queue_name text, in i_table_name text,
    out ret_code integer, out ret_note text)
as $$
declare
    l_fqname    text := londiste.make_fqname(i_table_name);
    l_combined  text;
begin
    select n.combined_queue into l_combined
      from pgq_node.node_info n
     where n.queue_name = i_queue_name
       for update;
    if not found then
        ret_code := 400;
        ret_note := 'No such queue: ' || i_queue_name;
        return;
    end if;

    ret_code := 200;
    insert into londiste.table_info (queue_name, table_name)
    values (i_queue_name, l_fqname)
    on conflict (queue_name, table_name) do nothing;
    if not found then
        ret_note := 'Table already added: ' || l_fqname;
        return;
    end if;
    if exists (select 1 from pgq_node.node_info n where n.queue_name = l_combined) then
        perform londiste.global_add_table(l_combined, l_fqname);
    end if;
    ret_note := 'Table added: ' || i_table_name;
end;
$$ language plpgsql strict;
