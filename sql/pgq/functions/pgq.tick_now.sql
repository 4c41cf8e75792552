-- pgq.tick_now(queue, min age): make a tick at once, whatever the rules say (Skytide's addition)
--   returns  tick id; null if the newest tick is younger than the given age, or the queue is paused or
--            ticked from outside
--   errors   no such queue; not read committed
create or replace function pgq.tick_now(i_queue_name text, i_min_age interval default '0')
returns bigint as $$
declare
    l_queue_id  integer;
    l_event_seq bigint;
begin
    perform pgq._require_read_committed('pgq.tick_now()');
    select q.queue_id into l_queue_id from pgq.queue q where q.queue_name = i_queue_name;
    if not found then
        raise exception 'no such queue: %', i_queue_name;
    end if;

    perform pgq._lock_ticks(l_queue_id);
    select pgq.seq_getval(q.queue_event_seq) into l_event_seq
      from pgq.queue q
     where q.queue_id = l_queue_id and not q.queue_external_ticker and not q.queue_ticker_paused;
    if not found
        or (select max(t.tick_time) from pgq.tick t where t.tick_queue = l_queue_id)
            > clock_timestamp() - i_min_age
    then
        return null;
    end if;
    return pgq._insert_tick(l_queue_id, l_event_seq);
end;
$$ language plpgsql security definer set search_path = pg_catalog, pg_temp;
