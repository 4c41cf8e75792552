-- londiste.find_rel_oid(name, kind): find a relation of a kind (pg_class.relkind)
--   returns  oid; null if there is none
create or replace function londiste.find_rel_oid(i_fqname text, i_kind text) returns oid as $$
    select c.oid
      from londiste.split_fqname(i_fqname) f
      join pg_catalog.pg_namespace n on n.nspname = f.schema_part
      join pg_catalog.pg_class c on c.relnamespace = n.oid and c.relname = f.name_part
     where c.relkind::text = i_kind;
$$ language sql strict stable;
