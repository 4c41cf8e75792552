-- pgq._values_differ(relation, column, old, new): whether two texts are different values of a column
--   note     by the equality of the type, under the column's collation; arrays, and types without one, by the
--            text. Slow: it plans a statement
create or replace function pgq._values_differ(i_relid oid, i_column text, i_old text, i_new text)
returns boolean as $$
declare
    l_cast      text;
    l_differ    boolean;
begin
    if i_old is not distinct from i_new then
        return false;
    elsif i_old is null or i_new is null then
        return true;
    end if;
    select format_type(a.atttypid, a.atttypmod)
           || coalesce((select format(' collate %I.%I', n.nspname, c.collname)
                          from pg_catalog.pg_collation c
                          join pg_catalog.pg_namespace n on n.oid = c.collnamespace
                         where c.oid = a.attcollation), '')
      into l_cast
      from pg_catalog.pg_attribute a
      join pg_catalog.pg_type t on t.oid = a.atttypid
     where a.attrelid = i_relid and a.attname = i_column and t.typcategory <> 'A';
    if not found then
        return true;
    end if;
    -- records are compared by the operator classes of their columns' types, whatever the search path
    execute format('select (select r from (select $1::%1$s) r) <> (select r from (select $2::%1$s) r)', l_cast)
       into l_differ
      using i_old, i_new;
    return l_differ;
exception when undefined_function then
    return true;
end;
$$ language plpgsql stable;
