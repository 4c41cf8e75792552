-- pgq.insert_events(queue, type, data): put many events of one type into a queue (Skytide's addition)
--   returns  event ids, in the order of the data
--   errors   as pgq.insert_event
--   note     one statement for all; client drivers send the array as one parameter
create or replace function pgq.insert_events(queue_name text, ev_type text, ev_data text[])
returns bigint[] as $$
begin
    return pgq._insert_events(queue_name, ev_type, null, ev_data, null, null, null, null);
end;
$$ language plpgsql security definer set search_path = pg_catalog, pg_temp;

-- pgq.insert_events(queue, types, data, extra1..4): put many events with all their fields (Skytide's addition)
--   returns  event ids, in the order of the data
--   errors   as pgq.insert_event; arrays of different lengths. An array that is null gives nulls
create or replace function pgq.insert_events(
    queue_name text, ev_type text[], ev_data text[],
    ev_extra1 text[] default null, ev_extra2 text[] default null,
    ev_extra3 text[] default null, ev_extra4 text[] default null)
returns bigint[] as $$
begin
    return pgq._insert_events(queue_name, null, ev_type, ev_data, ev_extra1, ev_extra2, ev_extra3, ev_extra4);
end;
$$ language plpgsql security definer set search_path = pg_catalog, pg_temp;
