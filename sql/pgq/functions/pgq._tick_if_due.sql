-- pgq._tick_if_due(queue id): apply the queue's tick rules
--   returns  tick id; null if none was due, or the queue is gone, paused or ticked from outside
--   errors   the newest tick comes from a cluster with older transaction ids
--   hazard   the caller holds the queue's tick lock; everything is read again here, because what the
--            caller saw before it waited may be old
create or replace function pgq._tick_if_due(i_queue_id integer) returns bigint as $$
declare
    q           record;
    l_last      record;
    l_before    timestamptz;
    l_new       bigint;
    l_age       interval;
    l_gap       interval;
    l_txid      bigint;
begin
    select t.queue_ticker_max_count, t.queue_ticker_max_lag, t.queue_ticker_idle_period, t.queue_data_pfx,
           pgq.seq_getval(t.queue_event_seq) as event_seq
      into q
      from pgq.queue t
     where t.queue_id = i_queue_id
       and not t.queue_external_ticker
       and not t.queue_ticker_paused;
    if not found then
        return null;
    end if;

    select t.tick_id, t.tick_time, t.tick_event_seq,
           txid_snapshot_xmin(t.tick_snapshot) as xmin, txid_snapshot_xmax(t.tick_snapshot) as xmax
      into l_last
      from pgq.tick t
     where t.tick_queue = i_queue_id
     order by t.tick_id desc
     limit 1;
    if not found then
        return pgq._insert_tick(i_queue_id, q.event_seq);
    end if;

    -- snapshot's xmax, not txid_current(): an idle queue must not use up a transaction id
    l_txid := txid_snapshot_xmax(txid_current_snapshot());
    if l_last.xmin > l_txid then
        raise exception 'Invalid PgQ state: old xmin=%, old xmax=%, cur txid=%', l_last.xmin, l_last.xmax, l_txid
            using hint = 'The database was restored into a cluster with younger transaction ids; '
                         'raise them with pg_resetwal -x / -e.';
    elsif l_last.xmax > l_txid then
        raise warning 'Dubious PgQ state: old xmax=%, cur txid=%', l_last.xmax, l_txid;
    end if;

    l_age := now() - l_last.tick_time;
    l_new := coalesce(q.event_seq - l_last.tick_event_seq, 0);
    if l_new < 0 then
        raise warning 'Negative new_events?  old=% cur=%', l_last.tick_event_seq, q.event_seq;
    end if;

    -- changes of tables that are read from the WAL do not move the event sequence: where the queue is
    -- published, transactions count instead
    if l_new < q.queue_ticker_max_count
        and l_txid - l_last.xmax >= q.queue_ticker_max_count
        and exists (
            select 1 from pg_catalog.pg_publication_rel r
             where r.prrelid = to_regclass(pgq.quote_fqname(q.queue_data_pfx || '_0')))
    then
        l_new := l_txid - l_last.xmax;
    end if;

    if l_new > 0 then
        if l_new < q.queue_ticker_max_count and l_age < q.queue_ticker_max_lag then
            return null;
        end if;
    else
        select t.tick_time into l_before
          from pgq.tick t
         where t.tick_queue = i_queue_id and t.tick_id < l_last.tick_id
         order by t.tick_id desc
         limit 1;
        if found then
            l_gap := l_last.tick_time - l_before;
            if l_age < q.queue_ticker_max_lag / 2
                or (l_age < l_gap * 2 and l_age < q.queue_ticker_idle_period)
            then
                return null;
            end if;
        end if;
    end if;
    return pgq._insert_tick(i_queue_id, q.event_seq);
end;
$$ language plpgsql;
