-- pgq._nack(batch, events, reason, limit): have events retried, or make them dead letters
--   limit    of retries; null: the queue's
--   out      time of the retry; null: a dead letter. An event that waits or is dead already is left so
--   errors   event not found
create or replace function pgq._nack(
    in i_batch_id bigint, in i_event_ids bigint[], in i_reason text, in i_limit integer,
    out ev_id bigint, out retry_after timestamptz)
returns setof record as $$
declare
    s           record;
    e           record;
    l_number    integer := 0;
begin
    -- subconsumers share the sub_id; the group goes by the shortest name
    select u.sub_id, u.sub_queue, coalesce(i_limit, q.queue_max_retries) as max_retries,
           q.queue_retry_delay, q.queue_retry_max_delay,
           (select c.co_name
              from pgq.subscriber m
              join pgq.consumer c on c.co_id = m.sub_consumer
             where m.sub_queue = u.sub_queue and m.sub_id = u.sub_id
             order by length(c.co_name)
             limit 1) as consumer
      into s
      from pgq._batch(i_batch_id) u
      join pgq.queue q on q.queue_id = u.sub_queue;
    if not found then
        raise exception 'event not found';
    end if;

    for e in
        select b.*, coalesce(b.ev_retry, 0) as retry
          from pgq.get_batch_events(i_batch_id) b
         where b.ev_id = any (i_event_ids)
    loop
        l_number := l_number + 1;
        ev_id := e.ev_id;
        if s.max_retries < 0 or e.retry < s.max_retries then
            retry_after := current_timestamp
                + least(s.queue_retry_max_delay, s.queue_retry_delay * power(2, least(e.retry, 20)));
            insert into pgq.retry_queue (ev_retry_after, ev_queue, ev_id, ev_time, ev_txid, ev_owner, ev_retry,
                                         ev_type, ev_data, ev_extra1, ev_extra2, ev_extra3, ev_extra4)
            values (retry_after, s.sub_queue, e.ev_id, e.ev_time, null, s.sub_id, e.retry + 1,
                    e.ev_type, e.ev_data, e.ev_extra1, e.ev_extra2, e.ev_extra3, e.ev_extra4)
            on conflict do nothing;
            if not found then
                select r.ev_retry_after into retry_after
                  from pgq.retry_queue r
                 where r.ev_owner = s.sub_id and r.ev_id = e.ev_id;
            end if;
        else
            retry_after := null;
            insert into pgq.dead_letter (dl_queue, dl_consumer, dl_reason, ev_id, ev_time, ev_retry,
                                         ev_type, ev_data, ev_extra1, ev_extra2, ev_extra3, ev_extra4)
            values (s.sub_queue, s.consumer, i_reason, e.ev_id, e.ev_time, e.ev_retry,
                    e.ev_type, e.ev_data, e.ev_extra1, e.ev_extra2, e.ev_extra3, e.ev_extra4)
            on conflict do nothing;
        end if;
        return next;
    end loop;
    if l_number < (select count(distinct i.id) from unnest(i_event_ids) as i (id)) then
        raise exception 'event not found';
    end if;
end;
$$ language plpgsql;
