-- pgq.batch_retry(batch, seconds): have all events of the open batch delivered again, to this consumer only
--   returns  number of events that did not wait already
--   errors   batch not found
create or replace function pgq.batch_retry(i_batch_id bigint, i_retry_seconds integer) returns integer as $$
declare
    l_count integer;
begin
    if not exists (select 1 from pgq._batch(i_batch_id)) then
        raise exception 'batch_retry: batch % not found', i_batch_id;
    end if;
    insert into pgq.retry_queue (ev_retry_after, ev_queue, ev_id, ev_time, ev_txid, ev_owner, ev_retry,
                                 ev_type, ev_data, ev_extra1, ev_extra2, ev_extra3, ev_extra4)
    select current_timestamp + make_interval(secs => i_retry_seconds), s.sub_queue,
           e.ev_id, e.ev_time, null, s.sub_id, coalesce(e.ev_retry, 0) + 1,
           e.ev_type, e.ev_data, e.ev_extra1, e.ev_extra2, e.ev_extra3, e.ev_extra4
      from pgq._batch(i_batch_id) s
     cross join lateral pgq.get_batch_events(s.sub_batch) e
    on conflict do nothing;
    get diagnostics l_count = row_count;
    return l_count;
end;
$$ language plpgsql security definer set search_path = pg_catalog, pg_temp;
