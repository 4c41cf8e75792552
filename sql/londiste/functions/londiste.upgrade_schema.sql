-- londiste.upgrade_schema(): bring older tables to this version's form
--   returns  0
create or replace function londiste.upgrade_schema() returns integer as $$
begin
    if not exists (
        select 1 from pg_catalog.pg_attribute a
         where a.attrelid = 'londiste.table_info'::regclass and a.attname = 'dest_table' and not a.attisdropped)
    then
        alter table londiste.table_info add column dest_table text;
    end if;
    if not exists (
        select 1 from pg_catalog.pg_attribute a
         where a.attrelid = 'londiste.applied_execute'::regclass and a.attname = 'execute_attrs'
           and not a.attisdropped)
    then
        alter table londiste.applied_execute add column execute_attrs text;
    end if;
    return 0;
end;
$$ language plpgsql;
