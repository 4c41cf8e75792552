-- What our sessions use to come to the point, for a database with the original modules: a tick at once.
create function pgq.tick_now(i_queue_name text, i_min_age interval default '0') returns bigint as $$
    insert into pgq.tick (tick_queue, tick_id, tick_time, tick_snapshot, tick_event_seq)
    select q.queue_id, nextval(q.queue_tick_seq::regclass), clock_timestamp(), txid_current_snapshot(),
           pgq.seq_getval(q.queue_event_seq)
      from pgq.queue q
     where q.queue_name = i_queue_name
       and not exists (select 1 from pgq.tick t
                        where t.tick_queue = q.queue_id and t.tick_time > clock_timestamp() - i_min_age)
    returning tick_id
$$ language sql security definer;
