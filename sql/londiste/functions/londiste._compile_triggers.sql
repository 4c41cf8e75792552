-- londiste._compile_triggers(queue): let capture triggers of a queue call functions made for their tables
--   note     the same events at a third of the cost, see pgq.compile_trigger. One whose function fits its table is left
--            alone, and so is one on a table of another owner: it goes on with the general function. The original PgQ
--            has no such thing: then nothing is done
create or replace function londiste._compile_triggers(i_queue_name text) returns void as $$
declare
    g   record;
begin
    if to_regprocedure('pgq.compile_trigger(regclass,name)') is null then
        return;
    end if;
    for g in
        select t.tgrelid::regclass as relation, t.tgname
          from pg_catalog.pg_trigger t
          join pg_catalog.pg_proc p on p.oid = t.tgfoid
          join pg_catalog.pg_class c on c.oid = t.tgrelid and pg_has_role(c.relowner, 'usage')
         where t.tgname in (londiste._trigger_name('', i_queue_name, ''), londiste._trigger_name('zzz_', i_queue_name, ''))
           and not t.tgisinternal and t.tgparentid = 0
           and londiste.is_replica_func(t.tgfoid)
           and strpos(p.prosrc, quote_literal(pgq._trigger_layout(t.tgrelid))) = 0
    loop
        perform pgq.compile_trigger(g.relation, g.tgname);
    end loop;
end;
$$ language plpgsql;
