-- londiste.find_table_fkeys(table): foreign keys from and to a table
--   out      fkey_def is the statement that makes it, all names qualified whatever the search path is
create or replace function londiste.find_table_fkeys(i_table_name text)
returns setof londiste.pending_fkeys as $$
declare
    l_oid   oid := londiste.find_table_oid(i_table_name);
begin
    return query
    select fn.nspname || '.' || f.relname, tn.nspname || '.' || t.relname, k.conname::text,
           format('alter table only %I.%I add constraint %I %s', fn.nspname, f.relname, k.conname,
                  pg_get_constraintdef(k.oid))
      from pg_constraint k
      join pg_class f on f.oid = k.conrelid
      join pg_namespace fn on fn.oid = f.relnamespace
      join pg_class t on t.oid = k.confrelid
      join pg_namespace tn on tn.oid = t.relnamespace
     where k.contype = 'f' and (k.conrelid = l_oid or k.confrelid = l_oid)
     order by 1, 2, 3;
end;
$$ language plpgsql strict stable set search_path = pg_catalog, pg_temp;
