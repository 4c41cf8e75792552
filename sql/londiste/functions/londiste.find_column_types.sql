-- londiste.find_column_types(table): a letter a column, in table order: k in the primary key, v not
--   returns  empty for a missing table
create or replace function londiste.find_column_types(tbl text) returns text as $$
    select coalesce(string_agg(case when a.attnum = any (k.conkey) then 'k' else 'v' end, '' order by a.attnum), '')
      from pg_catalog.pg_attribute a
      left join pg_catalog.pg_constraint k on k.conrelid = a.attrelid and k.contype = 'p'
     where a.attrelid = londiste.find_table_oid(tbl) and a.attnum > 0 and not a.attisdropped;
$$ language sql strict stable;
