-- pgq_node.version(): level of the SQL interface
--   returns  the original's version this schema answers to; never null
create or replace function pgq_node.version() returns text as $$
    select '3.5'::text;
$$ language sql immutable;
