-- pgq._events_retry(batch, events, time): have events of the open batch delivered again, to this consumer only
--   returns  how many did not wait already
--   errors   event not found: then none waits
create or replace function pgq._events_retry(i_batch_id bigint, i_event_ids bigint[], i_retry_time timestamptz)
returns integer as $$
declare
    s       record;
    l_count integer;
begin
    select u.sub_id, u.sub_queue into s from pgq._batch(i_batch_id) u;
    if not found then
        raise exception 'event not found';
    end if;
    execute 'insert into pgq.retry_queue (ev_retry_after, ev_queue, ev_id, ev_time, ev_txid, ev_owner, ev_retry,'
        || ' ev_type, ev_data, ev_extra1, ev_extra2, ev_extra3, ev_extra4)'
        || ' select $1, $2, e.ev_id, e.ev_time, null, $3, coalesce(e.ev_retry, 0) + 1,'
        || ' e.ev_type, e.ev_data, e.ev_extra1, e.ev_extra2, e.ev_extra3, e.ev_extra4'
        || ' from (' || pgq.batch_event_sql(i_batch_id) || ') e where e.ev_id = any ($4)'
        || ' on conflict do nothing'
        using i_retry_time, s.sub_queue, s.sub_id, i_event_ids;
    get diagnostics l_count = row_count;
    if exists (
        select 1 from unnest(i_event_ids) i (id)
         where not exists (
            select 1 from pgq.retry_queue r where r.ev_owner = s.sub_id and r.ev_id = i.id))
    then
        raise exception 'event not found';
    end if;
    return l_count;
end;
$$ language plpgsql;
