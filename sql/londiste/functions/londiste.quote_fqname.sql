-- londiste.quote_fqname(name): global name, quoted for use in a statement
create or replace function londiste.quote_fqname(i_name text) returns text as $$
    select case
        when strpos(i_name, '.') > 0 then
            quote_ident(split_part(i_name, '.', 1)) || '.'
            || quote_ident(substr(i_name, strpos(i_name, '.') + 1))
        else 'public.' || quote_ident(i_name)
    end;
$$ language sql immutable strict;
