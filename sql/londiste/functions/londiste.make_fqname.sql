-- londiste.make_fqname(name): global name: schema public is added where there is no dot
create or replace function londiste.make_fqname(i_name text) returns text as $$
    select case when strpos(i_name, '.') > 0 then i_name else 'public.' || i_name end;
$$ language sql immutable strict;
