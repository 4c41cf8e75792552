-- pgq.event_retry_raw(queue, consumer, retry after, id, time, retry, type, data, extra1..4): store a retry
--   event with all its fields
--   returns  event id; a null one is taken from the queue's sequence
--   errors   consumer not registered; 23505 if it waits already
create or replace function pgq.event_retry_raw(
    x_queue text, x_consumer text, x_retry_after timestamptz,
    x_ev_id bigint, x_ev_time timestamptz, x_ev_retry integer, x_ev_type text, x_ev_data text,
    x_ev_extra1 text, x_ev_extra2 text, x_ev_extra3 text, x_ev_extra4 text)
returns bigint as $$
declare
    s       record;
    l_id    bigint;
begin
    select u.sub_id, u.sub_queue, q.queue_event_seq
      into s
      from pgq.subscriber u
      join pgq.queue q on q.queue_id = u.sub_queue
      join pgq.consumer c on c.co_id = u.sub_consumer
     where q.queue_name = x_queue and c.co_name = x_consumer;
    if not found then
        raise exception 'consumer not registered: %/%', x_queue, x_consumer;
    end if;
    l_id := coalesce(x_ev_id, nextval(pgq.quote_fqname(s.queue_event_seq)::regclass));
    insert into pgq.retry_queue (ev_retry_after, ev_queue, ev_id, ev_time, ev_txid, ev_owner, ev_retry,
                                 ev_type, ev_data, ev_extra1, ev_extra2, ev_extra3, ev_extra4)
    values (x_retry_after, s.sub_queue, l_id, x_ev_time, null, s.sub_id, x_ev_retry,
            x_ev_type, x_ev_data, x_ev_extra1, x_ev_extra2, x_ev_extra3, x_ev_extra4);
    return l_id;
end;
$$ language plpgsql security definer set search_path = pg_catalog, pg_temp;
