-- londiste.find_table_oid(table): oid of an ordinary table; null if there is none
create or replace function londiste.find_table_oid(tbl text) returns oid as $$
    select londiste.find_rel_oid(tbl, 'r');
$$ language sql strict stable;
