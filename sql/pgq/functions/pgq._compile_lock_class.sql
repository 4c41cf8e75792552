-- pgq._compile_lock_class(): first key of the advisory locks that keep functions which are just made for a table from
--   being dropped as unused; the second is the table's id, or minus the id of a queue whose function is being made
create or replace function pgq._compile_lock_class() returns integer as $$
    select 1885827427;  -- "pgqc"
$$ language sql immutable;
