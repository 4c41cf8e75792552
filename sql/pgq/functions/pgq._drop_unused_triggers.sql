-- pgq._drop_unused_triggers(table): drop functions of pgq.compile_trigger that no trigger calls any more
--   table    those made for this one; null: for any
--   returns  0, which tells maintenance that it is done
--   note     while somebody compiles a trigger of a table, its functions are left for maintenance
create or replace function pgq._drop_unused_triggers(i_table oid default null) returns integer as $$
declare
    f   record;
begin
    for f in
        select p.oid::regprocedure as call, split_part(p.proname, '_', 3)::oid as relation
          from pg_catalog.pg_proc p
         where p.pronamespace = 'pgq'::regnamespace
           and p.proname ~ ('^_(jsontriga|logutriga)_' || coalesce(i_table::text, '[0-9]+') || '_[0-9a-f]{8}$')
           and not exists (select 1 from pg_catalog.pg_trigger t where t.tgfoid = p.oid)
    loop
        if pg_try_advisory_xact_lock(pgq._compile_lock_class(), f.relation::integer)
            -- again, for who had the lock may have made a trigger
            and not exists (select 1 from pg_catalog.pg_trigger t where t.tgfoid = f.call::oid)
        then
            execute format('drop function if exists %s', f.call);
        end if;
    end loop;
    return 0;
end;
$$ language plpgsql security definer set search_path = pg_catalog, pg_temp;
