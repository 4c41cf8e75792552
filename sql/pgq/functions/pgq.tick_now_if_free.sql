-- pgq.tick_now_if_free(queue): like pgq.tick_now(), but waits for nobody (Skytide's addition, for the ticker)
--   out      tick_id  null: none was made
--            is_free  false: somebody else makes a tick in the queue, holds its ticks, or drops it; ask again
--   errors   no such queue; not read committed
create or replace function pgq.tick_now_if_free(in i_queue_name text, out tick_id bigint, out is_free boolean)
returns record as $$
begin
    is_free := pg_try_advisory_xact_lock_shared(pgq._tick_lock_class(), 0)
        and coalesce((select pg_try_advisory_xact_lock(pgq._tick_lock_class(), q.queue_id)
                        from pgq.queue q
                       where q.queue_name = i_queue_name), true);
    if is_free then
        tick_id := pgq.tick_now(i_queue_name);
    end if;
end;
$$ language plpgsql security definer set search_path = pg_catalog, pg_temp;
