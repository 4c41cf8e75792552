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

-- pgq.event_dead(batch, events, reason): the same for many events (Skytide's addition)
--   returns  number of events
create or replace function pgq.event_dead(x_batch_id bigint, x_event_ids bigint[], x_reason text default null)
returns integer as $$
begin
    return (select count(*) from pgq._nack(x_batch_id, x_event_ids, x_reason, 0));
end;
$$ language plpgsql security definer set search_path = pg_catalog, pg_temp;
