-- pgq.insert_event_raw(queue, id, time, owner, retry, type, data, extra1..4): put an event with all its fields
--   id       null: the next of the queue's sequence, which moves in any case, also when the insert is refused
--   time     null: now()
--   returns  event id
--   errors   No such queue; Insert into queue disallowed (only role replica may); per-transaction limit;
--            40001 in repeatable read or serializable if the queue's row changed meanwhile
--   hazard   the transaction id is assigned before the queue's row is read: whoever reads "table 0" must be
--            older than the rotation's second step, or batches skip what it writes there
create or replace function pgq.insert_event_raw(
    queue_name text, ev_id bigint, ev_time timestamptz, ev_owner integer, ev_retry integer,
    ev_type text, ev_data text, ev_extra1 text, ev_extra2 text, ev_extra3 text, ev_extra4 text)
returns bigint as $$
declare
    i_queue_name    alias for $1;
    q               record;
    l_id            bigint;
begin
    if i_queue_name is null then
        raise exception 'Queue name must not be NULL';
    end if;

    perform txid_current();
    if current_setting('transaction_isolation') not in ('read committed', 'read uncommitted') then
        perform pgq._require_current_table(i_queue_name);
    end if;
    select t.queue_id, t.queue_data_pfx, t.queue_cur_table, t.queue_disable_insert, t.queue_per_tx_limit,
           nextval(t.queue_event_seq::regclass) as next_id
      into q
      from pgq.queue t
     where t.queue_name = i_queue_name;
    if not found then
        raise exception 'No such queue: %', i_queue_name;
    end if;
    if q.queue_disable_insert and current_setting('session_replication_role') <> 'replica' then
        raise exception 'Insert into queue disallowed';
    end if;

    if q.queue_per_tx_limit >= 0 then
        perform pgq._count_in_transaction(i_queue_name, q.queue_id, q.queue_cur_table, q.queue_per_tx_limit, 1);
    end if;

    l_id := coalesce($2, q.next_id);
    execute 'insert into ' || q.queue_data_pfx || '_' || q.queue_cur_table
            || ' (ev_id, ev_time, ev_owner, ev_retry, ev_type, ev_data, ev_extra1, ev_extra2, ev_extra3, ev_extra4)'
            || ' values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)'
        using l_id, coalesce($3, now()), $4, $5, $6, $7, $8, $9, $10, $11;
    return l_id;
end;
$$ language plpgsql;
