-- londiste._put_trigger(table, trigger, timing, events, level, function, args): have exactly this trigger
--   note     one that is the same already is left alone: replacing it takes a heavy lock
create or replace function londiste._put_trigger(
    i_table text, i_trigger text, i_timing text, i_events text, i_level text, i_function text, i_args text[])
returns void as $$
declare
    g       record;
    l_type  integer;
    l_args  bytea := '';
    l_arg   text;
    l_call  text;
begin
    l_type := case i_level when 'row' then 1 else 0 end
            + case i_timing when 'before' then 2 else 0 end
            + case when strpos(i_events, 'insert') > 0 then 4 else 0 end
            + case when strpos(i_events, 'delete') > 0 then 8 else 0 end
            + case when strpos(i_events, 'update') > 0 then 16 else 0 end
            + case when strpos(i_events, 'truncate') > 0 then 32 else 0 end;
    foreach l_arg in array i_args loop
        l_args := l_args || convert_to(l_arg, getdatabaseencoding()) || decode('00', 'hex');
    end loop;

    select t.tgtype, t.tgargs, t.tgfoid into g
      from pg_catalog.pg_trigger t
     where t.tgrelid = londiste.find_table_oid(i_table) and t.tgname = i_trigger::name
       and not t.tgisinternal;
    if found then
        if g.tgtype = l_type and g.tgargs = l_args
            and (g.tgfoid = to_regprocedure(i_function || '()')
                 -- or what pgq.compile_trigger made of it
                 or g.tgfoid::regproc::text ~ ('^pgq[.]_' || split_part(i_function, '.', 2) || '_[0-9]+_[0-9a-f]{8}$'))
        then
            return;
        end if;
        execute format('drop trigger %I on %s', i_trigger, londiste.quote_fqname(i_table));
    end if;
    select string_agg(quote_literal(a.arg), ', ' order by a.nr) into l_call
      from unnest(i_args) with ordinality as a (arg, nr);
    execute format('create trigger %I %s %s on %s for each %s execute function %s(%s)',
                   i_trigger, i_timing, i_events, londiste.quote_fqname(i_table), i_level, i_function, l_call);
end;
$$ language plpgsql;
