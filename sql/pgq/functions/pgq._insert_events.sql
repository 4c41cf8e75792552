-- pgq._insert_events(queue, type, types, data, extra1..4): insert events by one statement
--   type     of the events whose element of types is null
--   returns  event ids
--   hazard   transaction id and row lock come first, for the reason given in pgq.insert_event_raw
create or replace function pgq._insert_events(
    i_queue_name text, i_type text, i_types text[], i_data text[],
    i_extra1 text[], i_extra2 text[], i_extra3 text[], i_extra4 text[])
returns bigint[] as $$
declare
    q           record;
    l_number    integer := coalesce(array_length(i_data, 1), array_length(i_types, 1), 0);
    l_ids       bigint[];
begin
    if i_queue_name is null then
        raise exception 'Queue name must not be NULL';
    end if;
    if exists (
        select 1
          from (values (cardinality(i_types)), (cardinality(i_data)), (cardinality(i_extra1)),
                       (cardinality(i_extra2)), (cardinality(i_extra3)), (cardinality(i_extra4))) as n (number)
         where n.number <> l_number)
    then
        raise exception 'arrays of different lengths';
    end if;

    perform txid_current();
    if current_setting('transaction_isolation') not in ('read committed', 'read uncommitted') then
        perform pgq._require_current_table(i_queue_name);
    end if;
    select t.queue_id, t.queue_data_pfx, t.queue_cur_table, t.queue_disable_insert, t.queue_per_tx_limit,
           t.queue_event_seq
      into q
      from pgq.queue t
     where t.queue_name = i_queue_name;
    if not found then
        raise exception 'No such queue: %', i_queue_name;
    end if;
    if q.queue_disable_insert and current_setting('session_replication_role') <> 'replica' then
        raise exception 'Insert into queue disallowed';
    end if;
    if l_number = 0 then
        return '{}';
    end if;
    if q.queue_per_tx_limit >= 0 then
        perform pgq._count_in_transaction(i_queue_name, q.queue_id, q.queue_cur_table, q.queue_per_tx_limit,
                                          l_number);
    end if;

    l_ids := array(select nextval(q.queue_event_seq::regclass) from generate_series(1, l_number));
    execute 'insert into ' || q.queue_data_pfx || '_' || q.queue_cur_table
            || ' (ev_id, ev_time, ev_type, ev_data, ev_extra1, ev_extra2, ev_extra3, ev_extra4)'
            || ' select e.id, now(), coalesce(e.type, $2), e.data, e.extra1, e.extra2, e.extra3, e.extra4'
            || ' from unnest($1, $3, $4, $5, $6, $7, $8) as e (id, type, data, extra1, extra2, extra3, extra4)'
        using l_ids, i_type, i_types, i_data, i_extra1, i_extra2, i_extra3, i_extra4;
    return l_ids;
end;
$$ language plpgsql;
