-- pgq.watch_ticks(queue): be notified of each tick, until the session ends (Skytide's addition)
--   returns  channel of the notifications, pgq_tick_ and the queue's id; their payload is the tick id
--   errors   no such queue
--   hazard   LISTEN and an advisory lock of the session: not through a pool that hands on sessions after each
--            transaction. Look for a batch after this has been committed, then wait; and look now and then all the
--            same, since a dropped connection drops notifications
--   note     a tick that the session itself makes is not told, unless others wait too
create or replace function pgq.watch_ticks(i_queue_name text) returns text as $$
declare
    l_queue_id  integer;
begin
    select q.queue_id into l_queue_id from pgq.queue q where q.queue_name = i_queue_name;
    if not found then
        raise exception 'no such queue: %', i_queue_name;
    end if;
    execute format('listen %I', 'pgq_tick_' || l_queue_id);
    perform pg_advisory_lock_shared(pgq._watch_class(), l_queue_id);
    perform pg_advisory_lock_shared(pgq._watch_class(), 0);
    return 'pgq_tick_' || l_queue_id;
end;
$$ language plpgsql security definer set search_path = pg_catalog, pg_temp;
