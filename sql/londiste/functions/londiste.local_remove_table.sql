-- londiste.local_remove_table(queue, table): detach a table here; on a root remove it from the queue
--   codes    200; 400 not there, not attached
--   note     takes its sequences along, serial and identity. A table whose copy was under way is emptied
--            and gets its indexes back
create or replace function londiste.local_remove_table(
    in i_queue_name text, in i_table_name text,
    out ret_code integer, out ret_note text)
as $$
declare
    t           record;
    l_fqname    text := londiste.make_fqname(i_table_name);
    l_dest      text;
    l_seq       text;
    l_is_root   boolean;
begin
    select i.local, i.dropped_ddl, coalesce(i.dest_table, i.table_name) as dest into t
      from londiste.table_info i
     where i.queue_name = i_queue_name and i.table_name = l_fqname
       for update;
    if not found then
        ret_code := 400;
        ret_note := 'Table not found: ' || l_fqname;
        return;
    end if;

    l_is_root := pgq_node.is_root_node(i_queue_name);
    if not t.local and not l_is_root then
        ret_code := 400;
        ret_note := 'Table not registered locally: ' || l_fqname;
        return;
    end if;

    if t.local then
        l_dest := t.dest;
        perform londiste.drop_table_triggers(i_queue_name, l_fqname);
        if t.dropped_ddl is not null then
            execute 'truncate only ' || londiste.quote_fqname(l_dest);
            execute t.dropped_ddl;
        end if;
        update londiste.table_info
           set local = false, custom_snapshot = null, table_attrs = null, dropped_ddl = null,
               merge_state = null, dest_table = null
         where queue_name = i_queue_name and table_name = l_fqname;

        for l_seq in
            select n.nspname || '.' || c.relname
              from pg_catalog.pg_depend d
              join pg_catalog.pg_class c on c.oid = d.objid and c.relkind = 'S'
              join pg_catalog.pg_namespace n on n.oid = c.relnamespace
             where d.classid = 'pg_catalog.pg_class'::regclass
               and d.refclassid = 'pg_catalog.pg_class'::regclass
               and d.refobjid = londiste.find_table_oid(l_dest)
               and d.refobjsubid > 0 and d.deptype in ('a', 'i')
             order by 1
        loop
            perform londiste.local_remove_seq(i_queue_name, l_seq);
        end loop;
    end if;

    if l_is_root then
        perform londiste.global_remove_table(i_queue_name, l_fqname);
        perform londiste.root_notify_change(i_queue_name, 'londiste.remove-table', l_fqname);
    end if;
    ret_code := 200;
    ret_note := 'Table removed: ' || l_fqname;
end;
$$ language plpgsql strict;
