-- londiste.restore_table_fkey(table, foreign key, lazy): bring a dropped foreign key back
--   lazy     true: do nothing, return the statement the caller runs next; call again until it is empty
--   returns  empty when done
create or replace function londiste.restore_table_fkey(
    i_from_table text, i_fkey_name text, i_lazy boolean default false)
returns text as $$
declare
    f           record;
    l_valid     boolean;
begin
    select p.fkey_def into f
      from londiste.pending_fkeys p
     where p.from_table = i_from_table and p.fkey_name = i_fkey_name
       for update;
    if not found then
        return '';
    end if;
    if not i_lazy then
        execute f.fkey_def;
    else
        select k.convalidated into l_valid
          from pg_catalog.pg_constraint k
         where k.conrelid = londiste.find_table_oid(i_from_table)
           and k.contype = 'f' and k.conname = i_fkey_name;
        if not found then
            return f.fkey_def || case when f.fkey_def ~* ' not valid$' then '' else ' not valid' end;
        end if;
        if not l_valid then
            return format('alter table only %s validate constraint %I',
                          londiste.quote_fqname(i_from_table), i_fkey_name);
        end if;
    end if;
    delete from londiste.pending_fkeys where from_table = i_from_table and fkey_name = i_fkey_name;
    return '';
end;
$$ language plpgsql strict;
