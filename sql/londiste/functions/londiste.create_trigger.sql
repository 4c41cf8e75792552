-- londiste.create_trigger(queue, table, args, dest table, node type): capture triggers of an attached table
--   args     tgflags=...     B before, A after; Q sqltriga, L logutriga, J jsontriga; I U D only these; S skip
--            skip          the operation is suppressed, only its event remains
--            no_triggers, virtual_table   do nothing
--            expect_sync, skip_truncate, merge_all, no_merge   not for the trigger
--            others        given to the trigger
--   out      trigger_name of the row trigger
--   codes    200; 201 not created: not wanted, or the database has no capture trigger functions; 403 AFTER
--            trigger beside one that skips; 405 several that skip
--   note     on a leaf the triggers deny changes. The row trigger calls a function made for the table where there is
--            something to gain. This queue's own triggers are replaced, one that is as it
--            should be is left alone
create or replace function londiste.create_trigger(
    in i_queue_name text, in i_table_name text, in i_trg_args text[], in i_dest_table text, in i_node_type text,
    out ret_code integer, out ret_note text, out trigger_name text)
as $$
declare
    l_arg       text;
    l_flags     text := '';
    l_pass      text[] := '{}';
    l_skip      boolean := false;
    l_timing    text;
    l_events    text;
    l_function  text;
    l_args      text[];
    l_trunc     text[];
    l_oid       oid := londiste.find_table_oid(i_dest_table);
    l_skippers  text[];
    l_truncate  text := londiste._trigger_name('', i_queue_name, '_truncate');
    l_old       text;
begin
    foreach l_arg in array coalesce(i_trg_args, '{}') loop
        if starts_with(l_arg, 'tgflags=') then
            l_flags := upper(substr(l_arg, length('tgflags=') + 1));
        elsif l_arg in ('no_triggers', 'virtual_table') then
            ret_code := 201;
            ret_note := 'Trigger not created';
            return;
        elsif lower(l_arg) = 'skip' then
            l_skip := true;
        elsif l_arg not in ('expect_sync', 'skip_truncate', 'merge_all', 'no_merge') then
            l_pass := l_pass || l_arg;
        end if;
    end loop;
    l_skip := l_skip or strpos(l_flags, 'S') > 0;
    l_timing := case when strpos(l_flags, 'B') > 0 and strpos(l_flags, 'A') = 0 then 'before' else 'after' end;
    l_function := case
        when strpos(l_flags, 'J') > 0 then 'pgq.jsontriga'
        when strpos(l_flags, 'L') > 0 then 'pgq.logutriga'
        when strpos(l_flags, 'Q') > 0 then 'pgq.sqltriga'
        else 'pgq.logutriga'
    end;
    l_events := coalesce(
        nullif(concat_ws(' or ',
            case when strpos(l_flags, 'I') > 0 then 'insert' end,
            case when strpos(l_flags, 'U') > 0 then 'update' end,
            case when strpos(l_flags, 'D') > 0 then 'delete' end), ''),
        'insert or update or delete');

    if to_regprocedure(l_function || '()') is null or to_regprocedure('pgq.sqltriga()') is null then
        ret_code := 201;
        ret_note := 'Trigger not created';
        return;
    end if;

    l_args := array[i_queue_name] || l_pass;
    l_trunc := array[i_queue_name];
    if i_dest_table <> i_table_name
        and not exists (select 1 from unnest(l_pass) a where starts_with(a, 'ev_extra1='))
    then
        l_args := l_args || ('ev_extra1=' || quote_literal(i_table_name));
        l_trunc := l_trunc || ('ev_extra1=' || quote_literal(i_table_name));
    end if;
    if i_node_type = 'leaf' then
        l_args := l_args || 'deny'::text;
        l_trunc := l_trunc || 'deny'::text;
    end if;

    -- other triggers on the table that suppress the operation
    select array_agg(t.tgname::text order by t.tgname) into l_skippers
      from pg_catalog.pg_trigger t
     where t.tgrelid = l_oid and not t.tgisinternal
       and londiste.is_replica_func(t.tgfoid)
       and 'SKIP' = any (string_to_array(encode(t.tgargs, 'escape'), E'\\000'))
       and (string_to_array(encode(t.tgargs, 'escape'), E'\\000'))[1]
            <> encode(convert_to(i_queue_name, getdatabaseencoding()), 'escape');
    if array_length(l_skippers, 1) > 1 then
        ret_code := 405;
        ret_note := 'Multiple SKIP triggers';
        return;
    end if;
    if l_skippers is not null and l_timing = 'after' then
        ret_code := 403;
        ret_note := 'AFTER trigger cannot work with SKIP trigger(s)';
        return;
    end if;

    trigger_name := londiste._trigger_name('', i_queue_name, '');
    if l_skippers is not null then
        -- the one that suppresses the operation must fire last
        if not starts_with(l_skippers[1], 'zzz_') then
            execute format('alter trigger %I on %s rename to %I', l_skippers[1],
                           londiste.quote_fqname(i_dest_table), 'zzz_' || l_skippers[1]);
        end if;
    elsif l_skip then
        trigger_name := londiste._trigger_name('zzz_', i_queue_name, '');
        l_args := l_args || 'SKIP'::text;
    end if;

    for l_old in
        select t.tgname
          from pg_catalog.pg_trigger t
         where t.tgrelid = l_oid and not t.tgisinternal
           and londiste.is_replica_func(t.tgfoid)
           and (string_to_array(encode(t.tgargs, 'escape'), E'\\000'))[1]
                = encode(convert_to(i_queue_name, getdatabaseencoding()), 'escape')
           and t.tgname not in (trigger_name::name, l_truncate::name)
           and (t.tgname ~ '^(zzz_)*_londiste_')
    loop
        execute format('drop trigger %I on %s', l_old, londiste.quote_fqname(i_dest_table));
    end loop;

    -- a function made for the table, so that the trigger is created once; the original PgQ has no such thing
    if l_timing = 'after' and to_regprocedure('pgq._compile_function(oid,text,text[])') is not null then
        l_function := coalesce('pgq.' || pgq._compile_function(l_oid, split_part(l_function, '.', 2), l_args), l_function);
    end if;
    perform londiste._put_trigger(i_dest_table, trigger_name, l_timing, l_events, 'row', l_function, l_args);
    perform londiste._put_trigger(i_dest_table, l_truncate, 'after', 'truncate', 'statement', 'pgq.sqltriga', l_trunc);
    perform londiste._drop_unused_functions(i_dest_table);
    ret_code := 200;
    ret_note := 'OK';
end;
$$ language plpgsql;
