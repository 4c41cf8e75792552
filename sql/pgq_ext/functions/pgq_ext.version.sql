-- pgq_ext.version(): level of the SQL interface
--   returns  the original's version this schema answers to; never null
create or replace function pgq_ext.version() returns text as $$
    select '3.1'::text;
$$ language sql immutable;
