-- pgq._watch_class(): first key of the advisory locks that say who waits for ticks; the second is queue_id, or 0
--   for all queues
create or replace function pgq._watch_class() returns integer as $$
    select 1885827447;  -- "pgqw"
$$ language sql immutable;
