-- londiste.drop_table_triggers(queue, table): remove the queue's capture triggers from an attached table
--   note     whatever their names: a capture function with the queue as its first argument
create or replace function londiste.drop_table_triggers(i_queue_name text, i_table_name text)
returns void as $$
declare
    l_dest      text;
    l_trigger   text;
begin
    select coalesce(t.dest_table, t.table_name) into l_dest
      from londiste.table_info t
     where t.queue_name = i_queue_name and t.table_name = i_table_name;
    for l_trigger in
        select g.tgname
          from pg_catalog.pg_trigger g
         where g.tgrelid = londiste.find_table_oid(l_dest) and not g.tgisinternal
           and londiste.is_replica_func(g.tgfoid)
           and (string_to_array(encode(g.tgargs, 'escape'), E'\\000'))[1]
                = encode(convert_to(i_queue_name, getdatabaseencoding()), 'escape')
    loop
        execute format('drop trigger %I on %s', l_trigger, londiste.quote_fqname(l_dest));
    end loop;
    perform londiste._drop_unused_functions(l_dest);
end;
$$ language plpgsql strict;
