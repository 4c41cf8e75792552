-- pgq.get_batch_info(batch): describe an open batch
--   out      one row, all null if there is no such batch. lag is the age of the batch's end
create or replace function pgq.get_batch_info(
    in x_batch_id bigint,
    out queue_name text, out consumer_name text, out batch_start timestamptz, out batch_end timestamptz,
    out prev_tick_id bigint, out tick_id bigint, out lag interval, out seq_start bigint, out seq_end bigint)
as $$
declare
    l_queue_id  integer;
begin
    select q.queue_id, q.queue_name, c.co_name, s.sub_last_tick, s.sub_next_tick
      into l_queue_id, queue_name, consumer_name, prev_tick_id, tick_id
      from pgq._batch(x_batch_id) s
      join pgq.queue q on q.queue_id = s.sub_queue
      join pgq.consumer c on c.co_id = s.sub_consumer;
    select t.tick_time, t.tick_event_seq into batch_start, seq_start
      from pgq.tick t
     where t.tick_queue = l_queue_id and t.tick_id = prev_tick_id;
    select t.tick_time, t.tick_event_seq into batch_end, seq_end
      from pgq.tick t
     where t.tick_queue = l_queue_id and t.tick_id = get_batch_info.tick_id;
    lag := current_timestamp - batch_end;
end;
$$ language plpgsql security definer set search_path = pg_catalog, pg_temp;
