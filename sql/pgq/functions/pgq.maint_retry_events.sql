-- pgq.maint_retry_events(): move retry and delayed events whose time has come into their queues
--   returns  number moved, at most 10 retry events and 1000 delayed ones a queue; call until 0
--   errors   not read committed
--   note     queues that take no inserts keep theirs and hold nobody up; limits of events a transaction are
--            for producers
--   hazard   one mover at a time: the others wait for the lock. The transaction id comes before the queue's
--            row is read, for the reason given in pgq.insert_event_raw
create or replace function pgq.maint_retry_events() returns integer as $$
declare
    e       record;
    l_count integer := 0;
begin
    perform pgq._require_read_committed('pgq.maint_retry_events()');
    lock table pgq.retry_queue in share update exclusive mode;
    if exists (select 1 from pgq.retry_queue r where r.ev_retry_after <= current_timestamp) then
        perform txid_current();
    end if;
    for e in
        select q.queue_data_pfx || '_' || q.queue_cur_table as table_name, q.queue_event_seq, r.*
          from pgq.retry_queue r
          join pgq.queue q on q.queue_id = r.ev_queue
         where r.ev_retry_after <= current_timestamp
           and not q.queue_disable_insert
         order by r.ev_retry_after
         limit 10
    loop
        execute 'insert into ' || e.table_name
             || ' (ev_id, ev_time, ev_owner, ev_retry, ev_type, ev_data, ev_extra1, ev_extra2, ev_extra3, ev_extra4)'
             || ' values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)'
            using e.ev_id, e.ev_time, e.ev_owner, e.ev_retry,
                  e.ev_type, e.ev_data, e.ev_extra1, e.ev_extra2, e.ev_extra3, e.ev_extra4;
        perform nextval(e.queue_event_seq::regclass);   -- so that the ticker counts it
        delete from pgq.retry_queue where ev_owner = e.ev_owner and ev_id = e.ev_id;
        l_count := l_count + 1;
    end loop;
    return l_count + pgq._deliver_delayed(1000);
end;
$$ language plpgsql;
