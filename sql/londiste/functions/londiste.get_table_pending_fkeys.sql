-- londiste.get_table_pending_fkeys(table): dropped foreign keys from and to a table
create or replace function londiste.get_table_pending_fkeys(i_table_name text)
returns setof londiste.pending_fkeys as $$
begin
    return query
    select f.*
      from londiste.pending_fkeys f
     where f.from_table = i_table_name or f.to_table = i_table_name
     order by f.from_table, f.to_table, f.fkey_name;
end;
$$ language plpgsql strict stable;
