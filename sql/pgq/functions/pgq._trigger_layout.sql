-- pgq._trigger_layout(table): what a compiled trigger relies on: columns and primary key, as one text
--   hazard   not immutable at all. It says so that the planner computes it once, with a constant of type regclass
--            as its argument: such a plan is made anew when the table's definition changes, and only then. Under
--            read committed that is exact; elsewhere the catalog is read as of an old snapshot
create or replace function pgq._trigger_layout(i_table regclass) returns text as $$
begin
    return (
        select string_agg(concat_ws(' ', a.attnum, a.attname::text, a.atttypid, a.attgenerated), ',' order by a.attnum)
          from pg_catalog.pg_attribute a
         where a.attrelid = i_table and a.attnum > 0 and not a.attisdropped)
        || coalesce(' key ' || (
            select array_to_string(c.conkey, ',')
              from pg_catalog.pg_constraint c
             where c.conrelid = i_table and c.contype = 'p'), '')
        || (select format(' of %s.%s', n.nspname, c.relname)
              from pg_catalog.pg_class c
              join pg_catalog.pg_namespace n on n.oid = c.relnamespace
             where c.oid = i_table);
end;
$$ language plpgsql immutable strict;
