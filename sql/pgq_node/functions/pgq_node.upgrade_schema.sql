-- pgq_node.upgrade_schema(): bring older tables to this version's form
--   returns  number of changes
create or replace function pgq_node.upgrade_schema() returns integer as $$
begin
    if not exists (
        select 1 from pg_catalog.pg_attribute a
         where a.attrelid = 'pgq_node.node_info'::regclass and a.attname = 'node_attrs' and not a.attisdropped)
    then
        alter table pgq_node.node_info add column node_attrs text;
        return 1;
    end if;
    return 0;
end;
$$ language plpgsql;
