-- pgq.compile_trigger(table, trigger): give a capture trigger a function made for its table
--   trigger  an AFTER ROW trigger that calls pgq.jsontriga or pgq.logutriga, or was compiled before
--   returns  true compiled; false it goes on with the general function, for which its arguments or the table ask:
--            SKIP, deny, when=, expressions other than a constant ev_extra1=, magic columns, more than 48 columns
--   errors   no such trigger; the trigger is another one
--   note     the same events at a third of the cost, without a call of pgq.insert_event, though the right to call it is
--            needed, and one that somebody put in its place is called. After the table was altered it falls back to
--            the general function by itself: compile again. Functions that are no longer called are dropped
create or replace function pgq.compile_trigger(i_table regclass, i_trigger name) returns boolean as $$
declare
    g       record;
    l_args  text[];
    l_old   text;
    l_new   text;
begin
    select t.tgtype, t.tgenabled, pg_get_triggerdef(t.oid) as definition, p.proname, pgq._trigger_args(t.oid) as args
      into g
      from pg_catalog.pg_trigger t
      join pg_catalog.pg_proc p on p.oid = t.tgfoid
      join pg_catalog.pg_namespace n on n.oid = p.pronamespace and n.nspname = 'pgq'
     where t.tgrelid = i_table and t.tgname = i_trigger and not t.tgisinternal;
    if not found then
        raise exception 'No such capture trigger: % on %', i_trigger, i_table;
    end if;
    l_old := substring(g.proname from '^_?(jsontriga|logutriga)');
    if l_old is null or g.tgtype & 1 = 0 or g.tgtype & 66 <> 0 then
        return false;
    end if;
    l_new := pgq._compile_function(i_table, l_old, g.args);
    if coalesce(l_new, l_old) = g.proname then
        return l_new is not null;
    end if;
    execute format('drop trigger %I on %s', i_trigger, i_table);
    execute regexp_replace(g.definition, 'EXECUTE (FUNCTION|PROCEDURE) [^[:space:]]+[(]',
                           format('EXECUTE FUNCTION pgq.%I(', coalesce(l_new, l_old)));
    if g.tgenabled <> 'O' then
        execute format('alter table %s %s trigger %I', i_table,
                       case g.tgenabled when 'D' then 'disable' when 'A' then 'enable always' else 'enable replica' end,
                       i_trigger);
    end if;
    perform pgq._drop_unused_triggers(i_table);
    return l_new is not null;
end;
$$ language plpgsql;
