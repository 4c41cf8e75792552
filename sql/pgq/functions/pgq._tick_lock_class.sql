-- pgq._tick_lock_class(): first key of the advisory locks that serialise ticks; the second is queue_id,
--   or 0 for all queues
create or replace function pgq._tick_lock_class() returns integer as $$
    select 1885827444;  -- "pgqt"
$$ language sql immutable;
