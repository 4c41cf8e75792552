-- pgq.events_retry(batch, events, seconds): have events of the open batch delivered again after so many seconds, to
--   this consumer only (Skytide's addition)
--   returns  how many did not wait already
--   errors   event not found: then none waits
--   note     pgq.event_retry for many at once: that one looks through the batch for each
create or replace function pgq.events_retry(i_batch_id bigint, i_event_ids bigint[], i_retry_seconds integer)
returns integer as $$
begin
    return pgq._events_retry(i_batch_id, i_event_ids, current_timestamp + make_interval(secs => i_retry_seconds));
end;
$$ language plpgsql security definer set search_path = pg_catalog, pg_temp;
