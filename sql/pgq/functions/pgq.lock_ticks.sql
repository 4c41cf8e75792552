-- pgq.lock_ticks(queue): keep everybody else from making ticks until this transaction ends
--   (Skytide's addition: first step of a compare barrier, before pgq.tick_at_snapshot)
--   returns  queue id
--   errors   no such queue; not read committed
create or replace function pgq.lock_ticks(i_queue_name text) returns integer as $$
declare
    l_queue_id  integer;
begin
    perform pgq._require_read_committed('pgq.lock_ticks()');
    select q.queue_id into l_queue_id from pgq.queue q where q.queue_name = i_queue_name;
    if not found then
        raise exception 'no such queue: %', i_queue_name;
    end if;
    perform pgq._lock_ticks(l_queue_id);
    return l_queue_id;
end;
$$ language plpgsql security definer set search_path = pg_catalog, pg_temp;
