-- pgq_coop.version(): level of the SQL interface
--   returns  the original's version this schema answers to; never null
create or replace function pgq_coop.version() returns text as $$
    select '3.4'::text;
$$ language sql immutable;
