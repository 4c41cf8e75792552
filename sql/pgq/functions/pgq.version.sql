-- pgq.version(): level of the SQL interface
--   returns  the original's version this schema answers to; never null, old programs test its first
--            character. Skytide's own version is in pgq.skytide_module
create or replace function pgq.version() returns text as $$
    select '3.5.2'::text;
$$ language sql immutable;
