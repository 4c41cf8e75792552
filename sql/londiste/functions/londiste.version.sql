-- londiste.version(): level of the SQL interface
--   returns  the original's version this schema answers to; never null
create or replace function londiste.version() returns text as $$
    select '3.8'::text;
$$ language sql immutable;
