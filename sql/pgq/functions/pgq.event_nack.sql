-- pgq.event_nack(batch, event, reason): say that an event failed (Skytide's addition)
--   returns  when this consumer gets it again: after the queue's retry_delay, doubled with each failure, up
--            to retry_max_delay. Null: it failed more than max_retries times and is in pgq.dead_letter
--   errors   event not found
--   note     call it in the transaction that finishes the batch. Reads the whole batch: hand over many
--            events together
create or replace function pgq.event_nack(x_batch_id bigint, x_event_id bigint, x_reason text default null)
returns timestamptz as $$
begin
    return (select n.retry_after from pgq._nack(x_batch_id, array[x_event_id], x_reason, null) n);
end;
$$ language plpgsql security definer set search_path = pg_catalog, pg_temp;

-- pgq.event_nack(batch, events, reason): the same for many events (Skytide's addition)
--   out      one row an event
create or replace function pgq.event_nack(
    in x_batch_id bigint, in x_event_ids bigint[], in x_reason text default null,
    out ev_id bigint, out retry_after timestamptz)
returns setof record as $$
begin
    return query select n.* from pgq._nack(x_batch_id, x_event_ids, x_reason, null) n;
end;
$$ language plpgsql security definer set search_path = pg_catalog, pg_temp;
