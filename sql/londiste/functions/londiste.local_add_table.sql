-- londiste.local_add_table(queue, table, trigger args, attributes, dest table): attach a table on this node
--   trigger args  expect_sync     no copy, the table is as it should be
--                 skip_truncate   remember to pass over TRUNCATE
--                 merge_all       leaf: attach it in all queues that are merged here
--                 no_merge        leaf: attach it in this queue only
--                 no_triggers     no capture triggers
--                 virtual_table   there is no such table here
--                 others          see londiste.create_trigger
--   dest table    this node's table, if it has another name
--   codes         200 also if it was attached so; 301 another trigger fires before capture; 400 no node, no
--                 primary key, or on a root that captures from the WAL no usable replica identity; 403, 405
--                 conflicts; 404 no such table here or in the queue; 410 attached with other attributes
--   note          every refusal comes before the first write. A root that captures from the WAL needs no
--                 triggers; the worker publishes the table
create or replace function londiste.local_add_table(
    in i_queue_name text, in i_table_name text, in i_trg_args text[], in i_table_attrs text, in i_dest_table text,
    out ret_code integer, out ret_note text)
as $$
declare
    n               record;
    t               record;
    p               record;
    l_args          text[] := coalesce(i_trg_args, '{}');
    l_expect_sync   boolean := 'expect_sync' = any (l_args);
    l_virtual       boolean := 'virtual_table' = any (l_args);
    l_merge_all     boolean := 'merge_all' = any (l_args);
    l_no_merge      boolean := 'no_merge' = any (l_args);
    l_no_triggers   boolean := 'no_triggers' = any (l_args) or 'virtual_table' = any (l_args);
    l_attrs         text := i_table_attrs;
    l_fqname        text := londiste.make_fqname(i_table_name);
    l_dest          text := londiste.make_fqname(coalesce(i_dest_table, i_table_name));
    l_desc          text;
    l_state         text;
    l_capture       text;
    l_refusal       text;
    l_first         text;
    l_is_new        boolean;
begin
    if l_fqname is null then
        return;
    end if;
    l_desc := l_fqname || case when l_dest <> l_fqname then '(' || l_dest || ')' else '' end;
    if 'skip_truncate' = any (l_args) then
        l_attrs := concat_ws('&', nullif(l_attrs, ''), 'skip_truncate=1');
    end if;

    if l_merge_all and l_no_merge then
        ret_code := 405;
        ret_note := 'Cannot use merge-all and no-merge together';
        return;
    end if;
    if not l_virtual and londiste.find_table_oid(l_dest) is null then
        ret_code := 404;
        ret_note := 'Table does not exist: ' || l_desc;
        return;
    end if;

    select i.ret_code, i.ret_note, i.node_type, i.combined_queue, i.combined_type into n
      from pgq_node.get_node_info(i_queue_name) i;
    if n.ret_code >= 400 then
        ret_code := 400;
        ret_note := 'No such set: ' || i_queue_name;
        return;
    end if;

    -- a copy into the same table by another queue may have its key dropped for the moment
    l_capture := londiste.get_capture(i_queue_name);
    if not l_virtual
        and not exists (
            select 1
              from londiste.table_info o
              join pgq_node.node_info m on m.queue_name = o.queue_name
             where coalesce(o.dest_table, o.table_name) = l_dest and o.queue_name <> i_queue_name
               and o.dropped_ddl is not null
               and m.combined_queue is not distinct from n.combined_queue)
    then
        if n.node_type = 'root' then
            l_refusal := londiste._table_refusal(l_dest, l_capture);
        elsif strpos(londiste.find_column_types(l_dest), 'k') = 0
            and (l_capture <> 'wal' or londiste._table_refusal(l_dest, l_capture) is not null)
        then
            l_refusal := 'Primary key missing on table: ' || l_desc;
        end if;
        if l_refusal is not null then
            ret_code := 400;
            ret_note := l_refusal;
            return;
        end if;
    end if;

    select i.local, i.table_attrs into t
      from londiste.table_info i
     where i.queue_name = i_queue_name and i.table_name = l_fqname;
    l_is_new := not found;
    if l_is_new and n.node_type <> 'root' then
        ret_code := 404;
        ret_note := 'Table not available on queue: ' || l_desc;
        return;
    end if;
    if t.local then
        if t.table_attrs is not distinct from l_attrs then
            ret_code := 200;
            ret_note := 'Table already added: ' || l_desc;
        else
            ret_code := 410;
            ret_note := 'Table ' || l_desc || ' already added, but with different args: '
                || coalesce(t.table_attrs, '');
        end if;
        return;
    end if;

    -- each one's copy and TRUNCATE would empty the other's rows
    select o.table_name into l_first
      from londiste.table_info o
     where o.queue_name = i_queue_name and o.local and o.table_name <> l_fqname
       and coalesce(o.dest_table, o.table_name) = l_dest;
    if found and not l_virtual then
        ret_code := 405;
        ret_note := 'Table ' || l_dest || ' is already that of ' || l_first || ' in queue ' || i_queue_name
            || ', choose another one for ' || l_fqname;
        return;
    end if;

    if n.node_type = 'leaf' and not l_no_merge then
        for p in
            select o.queue_name, o.local, o.merge_state
              from londiste.table_info o
              join pgq_node.node_info m on m.queue_name = o.queue_name
             where coalesce(o.dest_table, o.table_name) = l_dest and o.queue_name <> i_queue_name
               and m.combined_queue is not distinct from n.combined_queue
             order by o.queue_name
        loop
            if p.local and p.merge_state is distinct from 'ok' then
                ret_code := 405;
                ret_note := 'Found local table ' || l_desc || ' in queue ' || p.queue_name
                    || ', use remove-table first to remove all previous table subscriptions';
                return;
            end if;
            if not l_merge_all and p.merge_state is distinct from 'ok' then
                ret_code := 405;
                ret_note := 'Found multiple sources for table ' || l_desc
                    || ', use merge-all or no-merge to continue';
                return;
            end if;
        end loop;
    end if;

    -- nothing was written so far; a trigger that is refused undoes itself with the caller's rollback, and
    -- comes before the events
    if n.node_type = 'root' or l_expect_sync or l_virtual
        or (n.node_type = 'leaf' and n.combined_type = 'branch')
    then
        l_state := 'ok';
    end if;

    if l_no_triggers or (l_capture = 'wal' and n.node_type <> 'leaf') then
        select 201 as ret_code, 'Trigger not created'::text as ret_note, null::text as trigger_name into p;
    else
        select c.ret_code, c.ret_note, c.trigger_name into p
          from londiste.create_trigger(i_queue_name, l_fqname, l_args, l_dest, n.node_type) c;
        if p.ret_code > 299 then
            ret_code := p.ret_code;
            ret_note := 'Trigger creation failed for table ' || l_desc || ': ' || p.ret_note;
            return;
        end if;
    end if;

    if n.node_type = 'leaf' and not l_no_merge
        and n.combined_type in ('root', 'branch')
        and not exists (
            select 1 from londiste.table_info o
             where o.queue_name = n.combined_queue and o.table_name = l_fqname and o.local)
    then
        select c.ret_code, c.ret_note into ret_code, ret_note
          from londiste.local_add_table(n.combined_queue, l_fqname, l_args, l_attrs, l_dest) c;
        if ret_code >= 300 then
            return;
        end if;
    end if;

    if l_is_new then
        perform londiste.global_add_table(i_queue_name, l_fqname);
    end if;
    update londiste.table_info
       set local = true,
           merge_state = l_state,
           table_attrs = coalesce(l_attrs, table_attrs),
           dest_table = nullif(l_dest, l_fqname)
     where queue_name = i_queue_name and table_name = l_fqname;
    if n.node_type = 'leaf' and not l_no_merge then
        update londiste.table_info o
           set local = true, merge_state = l_state, table_attrs = coalesce(l_attrs, o.table_attrs)
          from pgq_node.node_info m
         where m.queue_name = o.queue_name and m.combined_queue is not distinct from n.combined_queue
           and coalesce(o.dest_table, o.table_name) = l_dest and o.queue_name <> i_queue_name
           and not o.local;
    end if;
    if n.node_type = 'root' then
        perform londiste.root_notify_change(i_queue_name, 'londiste.add-table', l_fqname);
    end if;

    if p.ret_code = 201 then
        ret_code := 200;
        ret_note := case
            when l_capture = 'wal' and n.node_type <> 'leaf' and not l_no_triggers
            then 'Table added, captured from the WAL: ' || l_desc
            else 'Table added with no triggers: ' || l_desc
        end;
        return;
    end if;

    select g.tgname into l_first
      from pg_catalog.pg_trigger g
     where g.tgrelid = londiste.find_table_oid(l_dest)
       and not g.tgisinternal
       and not londiste.is_replica_func(g.tgfoid)
       and g.tgtype & 1 = 1 and g.tgtype & 66 = 0       -- for each row, after
       and g.tgname < p.trigger_name::name
       and g.tgname !~ '^_londiste_' and g.tgname !~ '_logger$'
     order by g.tgname
     limit 1;
    if found then
        ret_code := 301;
        ret_note := 'Table added: ' || l_desc || ', but londiste trigger is not first: ' || l_first;
        return;
    end if;
    ret_code := 200;
    ret_note := 'Table added: ' || l_desc;
end;
$$ language plpgsql;

-- londiste.local_add_table(queue, table, trigger args, attributes): the same under its own name
create or replace function londiste.local_add_table(
    in i_queue_name text, in i_table_name text, in i_trg_args text[], in i_table_attrs text,
    out ret_code integer, out ret_note text)
as $$
begin
    select f.ret_code, f.ret_note into ret_code, ret_note
      from londiste.local_add_table(i_queue_name, i_table_name, i_trg_args, i_table_attrs, null) f;
end;
$$ language plpgsql;

-- londiste.local_add_table(queue, table, trigger args): the same without attributes
create or replace function londiste.local_add_table(
    in i_queue_name text, in i_table_name text, in i_trg_args text[],
    out ret_code integer, out ret_note text)
as $$
begin
    select f.ret_code, f.ret_note into ret_code, ret_note
      from londiste.local_add_table(i_queue_name, i_table_name, i_trg_args, null, null) f;
end;
$$ language plpgsql;

-- londiste.local_add_table(queue, table): the same without arguments
create or replace function londiste.local_add_table(
    in i_queue_name text, in i_table_name text,
    out ret_code integer, out ret_note text)
as $$
begin
    select f.ret_code, f.ret_note into ret_code, ret_note
      from londiste.local_add_table(i_queue_name, i_table_name, '{}', null, null) f;
end;
$$ language plpgsql strict;
