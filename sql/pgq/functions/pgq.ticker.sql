-- pgq.ticker(): make the ticks that are due, in every queue that is neither paused nor ticked from outside
--   returns  number of queues that got a tick
--   hazard   a queue that somebody else ticks at this moment is passed over; one queue's error is a
--            warning and does not stop the others
create or replace function pgq.ticker() returns bigint as $$
declare
    q       record;
    l_count bigint := 0;
begin
    perform pgq._require_read_committed('pgq.ticker()');
    begin
        return (select coalesce(cardinality(m.tick_ids), 0) from pgq._make_ticks(null, null, null, null) m);
    exception when others then
        null;   -- one queue stands in the way of all; which one, is found out below
    end;
    for q in
        select t.queue_id, t.queue_name
          from pgq.queue t
         where not t.queue_external_ticker and not t.queue_ticker_paused
         order by t.queue_name
    loop
        begin
            if pg_try_advisory_xact_lock_shared(pgq._tick_lock_class(), 0)
                and pg_try_advisory_xact_lock(pgq._tick_lock_class(), q.queue_id)
            then
                if pgq._tick_if_due(q.queue_id) is not null then
                    l_count := l_count + 1;
                end if;
            end if;
        exception when others then
            raise warning 'pgq.ticker: queue "%": %', q.queue_name, sqlerrm;
        end;
    end loop;
    return l_count;
end;
$$ language plpgsql security definer set search_path = pg_catalog, pg_temp;

-- pgq.ticker(queue): make a tick if the queue's rules ask for one
--   returns  tick id; null if none was due
--   errors   no such queue; queue paused; queue ticked from outside; not read committed
--   hazard   one at a time a queue: waits for whoever makes a tick, then judges the rules anew
create or replace function pgq.ticker(i_queue_name text) returns bigint as $$
declare
    q   record;
begin
    perform pgq._require_read_committed('pgq.ticker()');
    select t.queue_id, t.queue_external_ticker, t.queue_ticker_paused
      into q
      from pgq.queue t
     where t.queue_name = i_queue_name;
    if not found then
        raise exception 'no such queue';
    end if;
    if q.queue_external_ticker then
        raise exception 'This queue has external tick source.';
    end if;
    if q.queue_ticker_paused then
        raise exception 'Ticker has been paused for this queue';
    end if;

    perform pgq._lock_ticks(q.queue_id);
    return pgq._tick_if_due(q.queue_id);
end;
$$ language plpgsql security definer set search_path = pg_catalog, pg_temp;

-- pgq.ticker(queue, tick id, time, event seq): store a tick that another node made
--   returns  tick id
--   errors   queue not found, paused, or not ticked from outside; tick exists; tick id below the newest
--   note     id, time and sequence are the provider's, the snapshot is this node's
create or replace function pgq.ticker(
    i_queue_name text, i_tick_id bigint, i_orig_timestamp timestamptz, i_event_seq bigint)
returns bigint as $$
declare
    q           record;
    l_newest    bigint;
begin
    perform pgq._require_read_committed('pgq.ticker()');
    select t.queue_id, t.queue_tick_seq, t.queue_event_seq
      into q
      from pgq.queue t
     where t.queue_name = i_queue_name
       and t.queue_external_ticker
       and not t.queue_ticker_paused;
    if not found then
        raise exception 'queue not found or ticker disabled: %', i_queue_name;
    end if;

    perform pgq._lock_ticks(q.queue_id);
    select max(t.tick_id) into l_newest from pgq.tick t where t.tick_queue = q.queue_id;
    if i_tick_id < l_newest
        and not exists (select 1 from pgq.tick t where t.tick_queue = q.queue_id and t.tick_id = i_tick_id)
    then
        raise exception 'tick % of queue "%" would come after tick %', i_tick_id, i_queue_name, l_newest
            using hint = 'Ticks are stored in the order of their ids; delete the newer ones first.';
    end if;

    insert into pgq.tick (tick_queue, tick_id, tick_time, tick_snapshot, tick_event_seq)
    values (q.queue_id, i_tick_id, i_orig_timestamp, txid_current_snapshot(), i_event_seq);
    perform pgq.seq_setval(q.queue_tick_seq, i_tick_id);
    perform pgq.seq_setval(q.queue_event_seq, i_event_seq);
    perform pgq._tell_ticks(array[q.queue_id], array[i_tick_id]);
    return i_tick_id;
end;
$$ language plpgsql security definer set search_path = pg_catalog, pg_temp;
