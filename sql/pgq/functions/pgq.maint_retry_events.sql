-- pgq.maint_retry_events(): move retry events whose time has come back into their queues
--   returns  number moved, at most 10; call until 0
--   hazard   one mover at a time: the others wait for the lock
create or replace function pgq.maint_retry_events() returns integer as $$
declare
    e       record;
    l_count integer := 0;
begin
    lock table pgq.retry_queue in share update exclusive mode;
    for e in
        select q.queue_name, r.*
          from pgq.retry_queue r
          join pgq.queue q on q.queue_id = r.ev_queue
         where r.ev_retry_after <= current_timestamp
         order by r.ev_retry_after
         limit 10
    loop
        perform pgq.insert_event_raw(e.queue_name, e.ev_id, e.ev_time, e.ev_owner, e.ev_retry,
                                     e.ev_type, e.ev_data, e.ev_extra1, e.ev_extra2, e.ev_extra3, e.ev_extra4);
        delete from pgq.retry_queue where ev_owner = e.ev_owner and ev_id = e.ev_id;
        l_count := l_count + 1;
    end loop;
    return l_count;
end;
$$ language plpgsql;
