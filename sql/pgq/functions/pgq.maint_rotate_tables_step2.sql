-- pgq.maint_rotate_tables_step2(): note a transaction that began after a switch of tables was committed
--   returns  0
--   note     a queue whose row is locked is left for the next round; until then step 1 leaves it alone
--   hazard   a switch of this very transaction is left alone: only a later one can have seen it committed
create or replace function pgq.maint_rotate_tables_step2() returns integer as $$
begin
    update pgq.queue
       set queue_switch_step2 = txid_current()
     where queue_id in (
            select q.queue_id
              from pgq.queue q
             where q.queue_switch_step2 is null
               and q.queue_switch_step1 <> coalesce(txid_current_if_assigned(), 0)
               for no key update skip locked);
    return 0;
end;
$$ language plpgsql;
