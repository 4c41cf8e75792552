-- londiste.list_obsolete_partitions(parent, retention, period): partitions whose names say they are too old
--   returns  quoted names, in order
--   errors   not supported i_partition_period
--   note     goes by name alone: tables in the parent's schema called like the parent with a date
create or replace function londiste.list_obsolete_partitions(
    i_parent_table text, i_retention_period interval, i_partition_period text)
returns setof text as $$
declare
    p           record;
    l_schema    text;
    l_name      text;
begin
    select s.suffix, s.pattern into p from londiste._partition_suffix(i_partition_period) s;
    select f.schema_part, f.name_part into l_schema, l_name
      from londiste.split_fqname(londiste.make_fqname(i_parent_table)) f;
    return query
    select quote_ident(n.nspname) || '.' || quote_ident(c.relname)
      from pg_catalog.pg_class c
      join pg_catalog.pg_namespace n on n.oid = c.relnamespace
     where n.nspname = l_schema and c.relkind = 'r'
       and left(c.relname, length(l_name)) = l_name
       and substr(c.relname, length(l_name) + 1) ~ ('^' || p.pattern)
       and substr(c.relname, length(l_name) + 1) collate "C" < to_char(now() - i_retention_period, p.suffix)
     order by c.relname;
end;
$$ language plpgsql;
