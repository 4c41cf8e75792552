-- pgq.event_retry(batch, event, time): have an event of the open batch delivered again, to this consumer only
--   returns  1; 0 if it waits already
--   errors   event not found
create or replace function pgq.event_retry(x_batch_id bigint, x_event_id bigint, x_retry_time timestamptz)
returns integer as $$
begin
    if not exists (select 1 from pgq._batch(x_batch_id)) then
        raise exception 'event not found';
    end if;
    insert into pgq.retry_queue (ev_retry_after, ev_queue, ev_id, ev_time, ev_txid, ev_owner, ev_retry,
                                 ev_type, ev_data, ev_extra1, ev_extra2, ev_extra3, ev_extra4)
    select x_retry_time, s.sub_queue, e.ev_id, e.ev_time, null, s.sub_id, coalesce(e.ev_retry, 0) + 1,
           e.ev_type, e.ev_data, e.ev_extra1, e.ev_extra2, e.ev_extra3, e.ev_extra4
      from pgq._batch(x_batch_id) s
     cross join lateral pgq.get_batch_events(s.sub_batch) e
     where e.ev_id = x_event_id
    on conflict do nothing;
    if found then
        return 1;
    end if;
    if not exists (
        select 1 from pgq.retry_queue r
          join pgq._batch(x_batch_id) s on s.sub_id = r.ev_owner
         where r.ev_id = x_event_id)
    then
        raise exception 'event not found';
    end if;
    return 0;
end;
$$ language plpgsql security definer set search_path = pg_catalog, pg_temp;

-- pgq.event_retry(batch, event, seconds): the same after so many seconds
create or replace function pgq.event_retry(x_batch_id bigint, x_event_id bigint, x_retry_seconds integer)
returns integer as $$
begin
    return pgq.event_retry(x_batch_id, x_event_id,
                           current_timestamp + make_interval(secs => x_retry_seconds));
end;
$$ language plpgsql security definer set search_path = pg_catalog, pg_temp;
