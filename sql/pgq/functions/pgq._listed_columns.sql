-- pgq._listed_columns(list, table): names of columns in pkey= or ignore=, parted by commas and blanks
--   returns  also names that no column has
--   note     a column whose own name has commas or blanks is found by them around it, as the C functions look for each
--            column. Its parts are names too only if columns are called so
create or replace function pgq._listed_columns(i_list text, i_table oid) returns text[] as $$
declare
    l_parts text[] := array_remove(regexp_split_to_array(i_list, '[[:space:],]+'), '');
    l_rest  text := i_list;
    l_found text[] := '{}';
    l_name  text;
    l_there text;
begin
    if cardinality(l_parts) < 2 and i_list = any (l_parts) then
        return l_parts;
    end if;
    for l_name in
        select a.attname::text
          from pg_catalog.pg_attribute a
         where a.attrelid = i_table and a.attnum > 0 and not a.attisdropped and a.attname ~ '[[:space:],]'
         order by length(a.attname::text) desc
    loop
        l_there := '(^|[[:space:],])' || regexp_replace(l_name, '([^[:alnum:]_[:space:],])', E'\\\\\\1', 'g')
            || '(?=[[:space:],]|$)';
        if i_list ~ l_there then
            l_found := l_found || l_name;
            l_rest := regexp_replace(l_rest, l_there, ',', 'g');
        end if;
    end loop;
    if l_found = '{}' then
        return l_parts;
    end if;
    return l_found || array(
        select p.name
          from unnest(l_parts) p (name)
         where p.name = any (regexp_split_to_array(l_rest, '[[:space:],]+'))
            or exists (select 1 from pg_catalog.pg_attribute a
                        where a.attrelid = i_table and a.attnum > 0 and a.attname::text = p.name));
end;
$$ language plpgsql stable;
