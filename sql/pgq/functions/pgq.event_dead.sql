-- pgq.event_dead(batch, event, reason): make an event a dead letter at once (Skytide's addition)
--   returns  1
--   errors   event not found
create or replace function pgq.event_dead(x_batch_id bigint, x_event_id bigint, x_reason text default null)
returns integer as $$
begin
    perform pgq._nack(x_batch_id, array[x_event_id], x_reason, 0);
    return 1;
end;
$$ language plpgsql security definer set search_path = pg_catalog, pg_temp;
