-- pgq.cancel_event_at(queue, event): take back a delayed event (Skytide's addition)
--   returns  1; 0 if there is none: it may be delivered already
create or replace function pgq.cancel_event_at(i_queue_name text, i_event_id bigint) returns integer as $$
begin
    delete from pgq.delayed_event d
     using pgq.queue q
     where q.queue_name = i_queue_name and d.ev_queue = q.queue_id and d.ev_id = i_event_id;
    return found::integer;
end;
$$ language plpgsql security definer set search_path = pg_catalog, pg_temp;
