-- londiste.local_change_handler(queue, table, trigger args, attributes): other attributes and triggers for a table
--   codes    200; 400 no node; 404 not attached under this very name; 403, 405 as londiste.create_trigger
--   note     without triggers the old ones go
create or replace function londiste.local_change_handler(
    in i_queue_name text, in i_table_name text, in i_trg_args text[], in i_table_attrs text,
    out ret_code integer, out ret_note text)
as $$
declare
    l_type  text;
    l_dest  text;
    l_trg   record;
    l_args  text[] := coalesce(i_trg_args, '{}');
begin
    select n.node_type into l_type from pgq_node.node_info n where n.queue_name = i_queue_name;
    if not found then
        ret_code := 400;
        ret_note := 'No such set: ' || i_queue_name;
        return;
    end if;
    update londiste.table_info
       set table_attrs = i_table_attrs
     where queue_name = i_queue_name and table_name = i_table_name and local
    returning coalesce(dest_table, table_name) into l_dest;
    if not found then
        ret_code := 404;
        ret_note := 'no such local table: ' || i_table_name;
        return;
    end if;

    if l_args && array['no_triggers', 'virtual_table']
        or (l_type <> 'leaf' and londiste.get_capture(i_queue_name) = 'wal')
    then
        perform londiste.drop_table_triggers(i_queue_name, i_table_name);
        ret_code := 200;
        ret_note := 'Table handler updated with no triggers: ' || i_table_name;
        return;
    end if;
    select c.ret_code, c.ret_note into l_trg
      from londiste.create_trigger(i_queue_name, i_table_name, l_args, l_dest, l_type) c;
    if l_trg.ret_code > 299 then
        ret_code := l_trg.ret_code;
        ret_note := 'Trigger creation failed for table ' || i_table_name || ': ' || l_trg.ret_note;
        return;
    end if;
    ret_code := 200;
    ret_note := case l_trg.ret_code
        when 201 then 'Table handler updated with no triggers: '
        else 'Handler changed for table: '
    end || i_table_name;
end;
$$ language plpgsql;
