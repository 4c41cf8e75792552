-- pgq._insert_tick(queue id, event seq): store a tick with this statement's snapshot
--   event seq  read before the snapshot: an event counted here is in this tick's batch or a later one
--   returns  tick id; null if the queue is gone
--   errors   the newest tick comes from a cluster with older transaction ids: a batch from it to this one would have no
--            event
--   hazard   the caller holds the queue's tick lock, taken by an earlier statement
create or replace function pgq._insert_tick(i_queue_id integer, i_event_seq bigint) returns bigint as $$
declare
    l_tick_id   bigint;
    l_newest    txid_snapshot;
begin
    select t.tick_snapshot into l_newest
      from pgq.tick t
     where t.tick_queue = i_queue_id
     order by t.tick_id desc
     limit 1;
    if txid_snapshot_xmin(l_newest) > txid_snapshot_xmax(txid_current_snapshot()) then
        raise exception 'Invalid PgQ state: old xmin=%, old xmax=%, cur txid=%', txid_snapshot_xmin(l_newest),
                        txid_snapshot_xmax(l_newest), txid_snapshot_xmax(txid_current_snapshot())
            using hint = 'If the database was restored into a cluster with younger transaction ids, raise them '
                         'with pg_resetwal -x / -e.';
    end if;
    insert into pgq.tick (tick_queue, tick_id, tick_time, tick_snapshot, tick_event_seq)
    select q.queue_id, nextval(pgq.quote_fqname(q.queue_tick_seq)::regclass), now(),
           txid_current_snapshot(), i_event_seq
      from pgq.queue q
     where q.queue_id = i_queue_id
    returning tick_id into l_tick_id;
    if found then
        perform pgq._tell_ticks(array[i_queue_id], array[l_tick_id]);
    end if;
    return l_tick_id;
end;
$$ language plpgsql;
