-- pgq.insert_event(queue, type, data): put an event into a queue
--   returns  event id
--   errors   No such queue; Insert into queue disallowed; too many events from one transaction
--   note     the usual case is done here, as pgq.insert_event_raw would but in fewer steps; see there for the order
--            of things
create or replace function pgq.insert_event(queue_name text, ev_type text, ev_data text) returns bigint as $$
declare
    i_queue_name    alias for $1;
    l_txid          bigint := txid_current();
    l_insert        text;
    l_id            bigint;
begin
    select 'insert into ' || t.queue_data_pfx || '_' || t.queue_cur_table
               || ' (ev_id, ev_time, ev_txid, ev_type, ev_data) values ($1, now(), $2, $3, $4)',
           nextval(t.queue_event_seq::regclass)
      into l_insert, l_id
      from pgq.queue t
     where t.queue_name = i_queue_name and not t.queue_disable_insert and coalesce(t.queue_per_tx_limit, -1) < 0
       and current_setting('transaction_isolation') = 'read committed';
    if not found then
        return pgq.insert_event_raw(i_queue_name, null, now(), null, null, ev_type, ev_data, null, null, null, null);
    end if;
    execute l_insert using l_id, l_txid, ev_type, ev_data;
    return l_id;
end;
$$ language plpgsql security definer set search_path = pg_catalog, pg_temp;

-- pgq.insert_event(queue, type, data, extra1..4): put an event into a queue
--   returns  event id
--   note     triggers call this signature, and tests replace it to watch them
create or replace function pgq.insert_event(
    queue_name text, ev_type text, ev_data text,
    ev_extra1 text, ev_extra2 text, ev_extra3 text, ev_extra4 text)
returns bigint as $$
declare
    i_queue_name    alias for $1;
    l_txid          bigint := txid_current();
    l_insert        text;
    l_id            bigint;
begin
    select 'insert into ' || t.queue_data_pfx || '_' || t.queue_cur_table
               || ' (ev_id, ev_time, ev_txid, ev_type, ev_data, ev_extra1, ev_extra2, ev_extra3, ev_extra4)'
               || ' values ($1, now(), $2, $3, $4, $5, $6, $7, $8)',
           nextval(t.queue_event_seq::regclass)
      into l_insert, l_id
      from pgq.queue t
     where t.queue_name = i_queue_name and not t.queue_disable_insert and coalesce(t.queue_per_tx_limit, -1) < 0
       and current_setting('transaction_isolation') = 'read committed';
    if not found then
        return pgq.insert_event_raw(i_queue_name, null, now(), null, null,
                                    ev_type, ev_data, ev_extra1, ev_extra2, ev_extra3, ev_extra4);
    end if;
    execute l_insert
        using l_id, l_txid, ev_type, ev_data, ev_extra1, ev_extra2, ev_extra3, ev_extra4;
    return l_id;
end;
$$ language plpgsql security definer set search_path = pg_catalog, pg_temp;
