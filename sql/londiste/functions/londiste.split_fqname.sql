-- londiste.split_fqname(name): schema and name; the first dot splits, without one the schema is public
create or replace function londiste.split_fqname(
    in i_fqname text,
    out schema_part text, out name_part text)
as $$
    select case when strpos(i_fqname, '.') > 0 then split_part(i_fqname, '.', 1) else 'public' end,
           substr(i_fqname, strpos(i_fqname, '.') + 1);
$$ language sql immutable strict;
