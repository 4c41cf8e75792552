-- londiste._drop_unused_functions(table): drop functions that were made for triggers of this table and are no longer
--            called
create or replace function londiste._drop_unused_functions(i_table text) returns void as $$
declare
    l_oid   oid := londiste.find_table_oid(i_table);
begin
    -- the original PgQ has no such thing
    if l_oid is not null and to_regprocedure('pgq._drop_unused_triggers(oid)') is not null then
        perform pgq._drop_unused_triggers(l_oid);
    end if;
end;
$$ language plpgsql;
