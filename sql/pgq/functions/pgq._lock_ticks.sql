-- pgq._lock_ticks(queue id): wait until no other transaction can make a tick in the queue
--   hazard   call it as a statement of its own: only the next statement's snapshot is younger than the
--            ticks of whoever had the lock. Held to the end of the transaction, so that ticks commit in
--            the order of their ids
--   note     the lock with second key 0 stands for all queues: shared by those who tick one, exclusive for a round
create or replace function pgq._lock_ticks(i_queue_id integer) returns void as $$
begin
    perform pg_advisory_xact_lock_shared(pgq._tick_lock_class(), 0);
    perform pg_advisory_xact_lock(pgq._tick_lock_class(), i_queue_id);
end;
$$ language plpgsql;
