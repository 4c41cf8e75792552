-- pgq.event_retry(batch, event, time): have an event of the open batch delivered again, to this consumer only
--   returns  1; 0 if it waits already
--   errors   event not found
--   note     looks through the whole batch: hand over many events to pgq.events_retry
create or replace function pgq.event_retry(x_batch_id bigint, x_event_id bigint, x_retry_time timestamptz)
returns integer as $$
begin
    return pgq._events_retry(x_batch_id, array[x_event_id], x_retry_time);
end;
$$ language plpgsql security definer set search_path = pg_catalog, pg_temp;

-- pgq.event_retry(batch, event, seconds): the same after so many seconds
create or replace function pgq.event_retry(x_batch_id bigint, x_event_id bigint, x_retry_seconds integer)
returns integer as $$
begin
    return pgq.event_retry(x_batch_id, x_event_id,
                           current_timestamp + make_interval(secs => x_retry_seconds));
end;
$$ language plpgsql security definer set search_path = pg_catalog, pg_temp;
