-- pgq._deliver_delayed(limit): move delayed events whose time has come into their queues
--   limit    of events a queue
--   returns  number moved
--   note     queues that take no inserts keep theirs: a demoted root delivers them when it is root again
--   hazard   the transaction id comes first, for the reason given in pgq.insert_event_raw; one mover at a
--            time, by the lock that pgq.maint_retry_events takes
create or replace function pgq._deliver_delayed(i_limit integer) returns integer as $$
declare
    q       record;
    l_moved integer;
    l_count integer := 0;
begin
    if not exists (select 1 from pgq.delayed_event d where d.ev_deliver_at <= current_timestamp) then
        return 0;
    end if;
    perform txid_current();
    for q in
        select t.queue_id, t.queue_data_pfx || '_' || t.queue_cur_table as name, t.queue_event_seq
          from pgq.queue t
         where not t.queue_disable_insert
           and exists (
                select 1 from pgq.delayed_event d
                 where d.ev_queue = t.queue_id and d.ev_deliver_at <= current_timestamp)
    loop
        execute 'with due as (select ev_id from pgq.delayed_event'
             || ' where ev_queue = $1 and ev_deliver_at <= current_timestamp order by ev_deliver_at, ev_id limit $2),'
             || ' gone as (delete from pgq.delayed_event d using due'
             || ' where d.ev_queue = $1 and d.ev_id = due.ev_id returning d.*)'
             || ' insert into ' || q.name
             || ' (ev_id, ev_time, ev_type, ev_data, ev_extra1, ev_extra2, ev_extra3, ev_extra4)'
             || ' select ev_id, ev_deliver_at, ev_type, ev_data, ev_extra1, ev_extra2, ev_extra3, ev_extra4 from gone'
            using q.queue_id, i_limit;
        get diagnostics l_moved = row_count;
        -- so that the ticker counts them
        perform nextval(q.queue_event_seq::regclass) from generate_series(1, l_moved);
        l_count := l_count + l_moved;
    end loop;
    return l_count;
end;
$$ language plpgsql;
