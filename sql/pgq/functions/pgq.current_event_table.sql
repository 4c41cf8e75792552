-- pgq.current_event_table(queue): where to COPY or INSERT events directly
--   returns  pgq.event_N_i, unquoted; good in this transaction only
--   errors   Event queue not found; Writing to queue disabled (only role replica may); 40001 as in
--            pgq.insert_event_raw
--   hazard   assigns the transaction id first, for the reason given there
--   note     runs as the owner only to be allowed the row lock that other isolation levels need
create or replace function pgq.current_event_table(x_queue_name text) returns text as $$
declare
    q   record;
begin
    perform txid_current();
    if current_setting('transaction_isolation') not in ('read committed', 'read uncommitted') then
        perform pgq._require_current_table(x_queue_name);
    end if;
    select t.queue_data_pfx || '_' || t.queue_cur_table as name, t.queue_disable_insert
      into q
      from pgq.queue t
     where t.queue_name = x_queue_name;
    if not found then
        raise exception 'Event queue not found';
    end if;
    if q.queue_disable_insert and current_setting('session_replication_role') <> 'replica' then
        raise exception 'Writing to queue disabled';
    end if;
    return q.name;
end;
$$ language plpgsql security definer set search_path = pg_catalog, pg_temp;
