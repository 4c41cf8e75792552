-- pgq.get_batch_cursor(batch, cursor, limit, where): declare a cursor over a batch, give its first rows
--   limit    rows to give at once; 0 or less: none
--   where    SQL condition on the ten event columns; null: all. It runs as the caller
--   errors   batch not found; the cursor exists
--   note     fetch the rest with FETCH n FROM "cursor", in the same transaction
create or replace function pgq.get_batch_cursor(
    in i_batch_id bigint, in i_cursor_name text, in i_quick_limit integer, in i_extra_where text,
    out ev_id bigint, out ev_time timestamptz, out ev_txid bigint, out ev_retry integer,
    out ev_type text, out ev_data text,
    out ev_extra1 text, out ev_extra2 text, out ev_extra3 text, out ev_extra4 text)
returns setof record as $$
declare
    l_sql   text;
begin
    if i_batch_id is null or i_cursor_name is null or i_quick_limit is null then
        return;
    end if;
    l_sql := pgq.batch_event_sql(i_batch_id);
    if i_extra_where is not null then
        l_sql := 'select ev_id, ev_time, ev_txid, ev_retry, ev_type, ev_data,'
            || ' ev_extra1, ev_extra2, ev_extra3, ev_extra4'
            || ' from (' || l_sql || ') as events where ' || i_extra_where || ' order by 1';
    end if;
    execute 'declare ' || quote_ident(i_cursor_name) || ' no scroll cursor for ' || l_sql;
    if i_quick_limit > 0 then
        for ev_id, ev_time, ev_txid, ev_retry, ev_type, ev_data, ev_extra1, ev_extra2, ev_extra3, ev_extra4 in
            execute 'fetch ' || i_quick_limit || ' from ' || quote_ident(i_cursor_name)
        loop
            return next;
        end loop;
    end if;
end;
$$ language plpgsql;

-- pgq.get_batch_cursor(batch, cursor, limit): the same without a condition
create or replace function pgq.get_batch_cursor(
    in i_batch_id bigint, in i_cursor_name text, in i_quick_limit integer,
    out ev_id bigint, out ev_time timestamptz, out ev_txid bigint, out ev_retry integer,
    out ev_type text, out ev_data text,
    out ev_extra1 text, out ev_extra2 text, out ev_extra3 text, out ev_extra4 text)
returns setof record as $$
begin
    return query
    select e.* from pgq.get_batch_cursor(i_batch_id, i_cursor_name, i_quick_limit, null) e;
end;
$$ language plpgsql strict;
