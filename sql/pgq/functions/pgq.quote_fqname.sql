-- pgq.quote_fqname(name): quote schema.name for use in a statement
--   returns  both parts quoted; the first dot splits, without one the schema is public
create or replace function pgq.quote_fqname(i_name text) returns text as $$
    select case
        when strpos(i_name, '.') > 0 then
            quote_ident(split_part(i_name, '.', 1)) || '.'
            || quote_ident(substr(i_name, strpos(i_name, '.') + 1))
        else 'public.' || quote_ident(i_name)
    end;
$$ language sql immutable strict;
