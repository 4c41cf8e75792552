-- pgq._tell_ticks(queue ids, tick ids): notify those who wait for ticks: see pgq.watch_ticks
--   queue ids  several: of a round, which is short; one: of any transaction, however long, which must not keep others
--            from beginning to wait for other queues
--   note     a notification takes a lock of the whole cluster until it is committed, so there is none where nobody
--            waits: who waits holds a shared lock. Getting the exclusive one is proof, and whoever begins to wait
--            now is kept from it until our ticks are committed and can be seen
create or replace function pgq._tell_ticks(i_queues integer[], i_ticks bigint[]) returns void as $$
begin
    if cardinality(i_queues) = 1 or not pg_try_advisory_xact_lock(pgq._watch_class(), 0) then
        perform pg_notify('pgq_tick_' || t.queue_id, t.tick_id::text)
           from unnest(i_queues, i_ticks) as t (queue_id, tick_id)
          where not pg_try_advisory_xact_lock(pgq._watch_class(), t.queue_id);
    end if;
end;
$$ language plpgsql;
