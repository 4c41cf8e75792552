-- pgq.tick_at_snapshot(queue, snapshot, event type, event data): make a tick of a given snapshot, and
--   insert an event (Skytide's addition: second step of a compare barrier)
--   returns  tick id
--   errors   pgq.lock_ticks was not called in this transaction; queue paused or ticked from outside;
--            the snapshot lacks what the newest tick has, or is not of the past; not read committed
--   hazard   take the snapshot after pgq.lock_ticks returned, else a younger tick may be in the way
create or replace function pgq.tick_at_snapshot(
    i_queue_name text, i_snapshot txid_snapshot, i_ev_type text, i_ev_data text)
returns bigint as $$
declare
    q           record;
    l_newest    record;
    l_tick_id   bigint;
begin
    perform pgq._require_read_committed('pgq.tick_at_snapshot()');
    select t.queue_id, t.queue_event_seq, t.queue_tick_seq, t.queue_external_ticker, t.queue_ticker_paused
      into q
      from pgq.queue t
     where t.queue_name = i_queue_name;
    if not found then
        raise exception 'no such queue: %', i_queue_name;
    end if;
    if q.queue_external_ticker or q.queue_ticker_paused then
        raise exception 'queue "%" is paused or ticked from outside', i_queue_name;
    end if;
    if not exists (
        select 1
          from pg_locks l
         where l.locktype = 'advisory' and l.pid = pg_backend_pid() and l.granted
           and l.mode = 'ExclusiveLock' and l.objsubid = 2
           and l.database = (select d.oid from pg_database d where d.datname = current_database())
           and l.classid = pgq._tick_lock_class()::oid and l.objid = q.queue_id::oid)
    then
        raise exception 'the ticks of queue "%" are not locked by this session', i_queue_name
            using hint = 'Call pgq.lock_ticks() first, in the same transaction.';
    end if;

    select t.tick_id, t.tick_snapshot into l_newest
      from pgq.tick t
     where t.tick_queue = q.queue_id
     order by t.tick_id desc
     limit 1;
    if found and not pgq._snapshot_contains(i_snapshot, l_newest.tick_snapshot) then
        raise exception 'snapshot % does not contain that of tick %: %',
                i_snapshot, l_newest.tick_id, l_newest.tick_snapshot
            using hint = 'Take the snapshot after pgq.lock_ticks() returned.';
    end if;
    if not pgq._snapshot_contains(txid_current_snapshot(), i_snapshot) then
        raise exception 'snapshot % is not of the past of this server', i_snapshot;
    end if;

    insert into pgq.tick (tick_queue, tick_id, tick_time, tick_snapshot, tick_event_seq)
    values (q.queue_id, nextval(pgq.quote_fqname(q.queue_tick_seq)::regclass), now(), i_snapshot,
            pgq.seq_getval(q.queue_event_seq))
    returning tick_id into l_tick_id;
    perform pgq._tell_ticks(array[q.queue_id], array[l_tick_id]);
    perform pgq.insert_event(i_queue_name, i_ev_type, i_ev_data);
    return l_tick_id;
end;
$$ language plpgsql security definer set search_path = pg_catalog, pg_temp;
