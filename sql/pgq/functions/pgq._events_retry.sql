-- pgq._events_retry(batch, events, time): have events of the open batch delivered again, to this consumer only
--   returns  how many did not wait already
--   errors   event not found: then none waits
create or replace function pgq._events_retry(i_batch_id bigint, i_event_ids bigint[], i_retry_time timestamptz)
returns integer as $$
declare
    s       record;
    l_count integer;
    l_all   boolean;
begin
    select u.sub_id, u.sub_queue into s from pgq._batch(i_batch_id) u;
    if not found then
        raise exception 'event not found';
    end if;
    -- an event that waits since an earlier batch is not of this one
    execute 'with e as materialized ('
        || ' select b.* from (' || pgq.batch_event_sql(i_batch_id) || ') b where b.ev_id = any ($4)), r as ('
        || ' insert into pgq.retry_queue (ev_retry_after, ev_queue, ev_id, ev_time, ev_txid, ev_owner, ev_retry,'
        || ' ev_type, ev_data, ev_extra1, ev_extra2, ev_extra3, ev_extra4)'
        || ' select $1, $2, e.ev_id, e.ev_time, null, $3, coalesce(e.ev_retry, 0) + 1,'
        || ' e.ev_type, e.ev_data, e.ev_extra1, e.ev_extra2, e.ev_extra3, e.ev_extra4'
        || ' from e'
        || ' on conflict do nothing returning 1)'
        || ' select (select count(*) from r), not exists ('
        || ' select 1 from unnest($4) i (id) where not exists (select 1 from e where e.ev_id = i.id))'
        into l_count, l_all
        using i_retry_time, s.sub_queue, s.sub_id, i_event_ids;
    if not l_all then
        raise exception 'event not found';
    end if;
    return l_count;
end;
$$ language plpgsql;
