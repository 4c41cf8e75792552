-- pgq.batch_event_sql(batch): the query that reads a batch
--   returns  a statement of ten columns, ev_id to ev_extra4, ordered by ev_id
--   errors   batch not found
--   note     a transaction that ran at the last tick and ended since is far behind the range scan if it was
--            long; such ones are looked up one by one
create or replace function pgq.batch_event_sql(x_batch_id bigint) returns text as $$
declare
    b           record;
    l_scan_from bigint;
    l_late      bigint;
    l_single    text[] := '{}';
    l_table     text;
    l_select    text;
    l_sql       text[] := '{}';
begin
    select s.sub_id,
           (select t.tick_snapshot from pgq.tick t
             where t.tick_queue = s.sub_queue and t.tick_id = s.sub_last_tick) as prev,
           (select t.tick_snapshot from pgq.tick t
             where t.tick_queue = s.sub_queue and t.tick_id = s.sub_next_tick) as cur
      into b
      from pgq._batch(x_batch_id) s;
    if b.prev is null or b.cur is null then
        raise exception 'batch not found';
    end if;

    l_scan_from := txid_snapshot_xmax(b.prev);
    for l_late in
        select x.txid from txid_snapshot_xip(b.prev) as x (txid)
        except
        select x.txid from txid_snapshot_xip(b.cur) as x (txid)
        order by 1 desc
    loop
        if l_late >= l_scan_from - 100 then
            l_scan_from := l_late;
        else
            l_single := l_single || l_late::text;
        end if;
    end loop;

    for l_table in select t.* from pgq.batch_event_tables(x_batch_id) t loop
        l_select := 'select ev_id, ev_time, ev_txid, ev_retry, ev_type, ev_data,'
            || ' ev_extra1, ev_extra2, ev_extra3, ev_extra4'
            || ' from ' || l_table
            || ' where (ev_owner is null or ev_owner = ' || b.sub_id || ')';
        l_sql := l_sql || (l_select
            || ' and ev_txid >= ' || l_scan_from
            || ' and ev_txid <= ' || txid_snapshot_xmax(b.cur)
            || ' and pg_catalog.txid_visible_in_snapshot(ev_txid, ' || quote_literal(b.cur) || ')'
            || ' and not pg_catalog.txid_visible_in_snapshot(ev_txid, ' || quote_literal(b.prev) || ')');
        if l_single <> '{}' then
            l_sql := l_sql || (l_select || ' and ev_txid in (' || array_to_string(l_single, ', ') || ')');
        end if;
    end loop;
    return array_to_string(l_sql, ' union all ') || ' order by 1';
end;
$$ language plpgsql;
