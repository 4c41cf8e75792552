-- londiste.drop_table_fkey(table, foreign key): drop a foreign key and remember it
--   returns  1; 0 if there is none
--   note     one that was remembered before and made again by hand is remembered anew; two sessions may drop the same
create or replace function londiste.drop_table_fkey(i_from_table text, i_fkey_name text) returns integer as $$
begin
    insert into londiste.pending_fkeys (from_table, to_table, fkey_name, fkey_def)
    select f.from_table, f.to_table, f.fkey_name, f.fkey_def
      from londiste.find_table_fkeys(i_from_table) f
     where f.from_table = i_from_table and f.fkey_name = i_fkey_name
    on conflict (from_table, fkey_name)
    do update set to_table = excluded.to_table, fkey_def = excluded.fkey_def;
    if not found then
        return 0;
    end if;
    execute format('alter table only %s drop constraint if exists %I', londiste.quote_fqname(i_from_table), i_fkey_name);
    return 1;
end;
$$ language plpgsql strict;
