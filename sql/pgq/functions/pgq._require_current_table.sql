-- pgq._require_current_table(queue): refuse a snapshot from before the last switch of tables
--   errors   40001 in repeatable read or serializable if the queue's row changed since the snapshot
--   hazard   the caller has assigned the transaction id. What its snapshot calls the current table is good for the
--            whole transaction if it is at one moment after that: the second step of any later switch is younger.
--            So the row lock, which asks for this, is given back at once, by the end of a subtransaction, and holds up no
--            rotation; and it is asked once a transaction, since a later switch would make the answer no
create or replace function pgq._require_current_table(i_queue_name text) returns void as $$
declare
    l_asked constant text := 'pgq.asked_' || (select q.queue_id from pgq.queue q where q.queue_name = i_queue_name);
    l_txid  constant text := txid_current()::text;
begin
    if l_asked is null or current_setting(l_asked, true) = l_txid then
        return;
    end if;
    begin
        perform 1 from pgq.queue q where q.queue_name = i_queue_name for share;
        raise exception 'give the lock back' using errcode = 'PGQ00';
    exception when sqlstate 'PGQ00' then
        null;
    end;
    perform set_config(l_asked, l_txid, true);
end;
$$ language plpgsql;
