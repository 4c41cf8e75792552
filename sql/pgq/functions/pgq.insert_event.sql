-- pgq.insert_event(queue, type, data): put an event into a queue
--   returns  event id
--   errors   No such queue; Insert into queue disallowed; too many events from one transaction
create or replace function pgq.insert_event(queue_name text, ev_type text, ev_data text) returns bigint as $$
begin
    return pgq.insert_event(queue_name, ev_type, ev_data, null, null, null, null);
end;
$$ language plpgsql;

-- pgq.insert_event(queue, type, data, extra1..4): put an event into a queue
--   returns  event id
--   note     triggers call this signature, and tests replace it to watch them
create or replace function pgq.insert_event(
    queue_name text, ev_type text, ev_data text,
    ev_extra1 text, ev_extra2 text, ev_extra3 text, ev_extra4 text)
returns bigint as $$
begin
    return pgq.insert_event_raw(queue_name, null, now(), null, null,
                                ev_type, ev_data, ev_extra1, ev_extra2, ev_extra3, ev_extra4);
end;
$$ language plpgsql security definer set search_path = pg_catalog, pg_temp;
