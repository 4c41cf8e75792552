-- pgq.find_tick_helper(queue id, last tick id, time, seq, min count, min interval): find the end of a batch
--   that has enough events or is long enough
--   out      the tick; nulls if there is none
--   note     a batch is between one and two times of the minimum, if ticks are dense enough
create or replace function pgq.find_tick_helper(
    in i_queue_id integer, in i_prev_tick_id bigint, in i_prev_tick_time timestamptz,
    in i_prev_tick_seq bigint, in i_min_count bigint, in i_min_interval interval,
    out next_tick_id bigint, out next_tick_time timestamptz, out next_tick_seq bigint)
as $$
declare
    l_last      record;
    l_count     bigint;
    l_interval  interval;
begin
    select t.tick_id, t.tick_time, t.tick_event_seq
      into l_last
      from pgq.tick t
     where t.tick_queue = i_queue_id and t.tick_id > i_prev_tick_id
     order by t.tick_id desc
     limit 1;
    if not found then
        return;
    end if;
    l_count := l_last.tick_event_seq - i_prev_tick_seq;
    l_interval := l_last.tick_time - i_prev_tick_time;

    if l_count > i_min_count * 2 or l_interval > i_min_interval * 2 then
        select t.tick_id, t.tick_time, t.tick_event_seq
          into next_tick_id, next_tick_time, next_tick_seq
          from pgq.tick t
         where t.tick_queue = i_queue_id and t.tick_id > i_prev_tick_id
           and (t.tick_event_seq - i_prev_tick_seq >= i_min_count
                or t.tick_time - i_prev_tick_time >= i_min_interval)
         order by t.tick_id
         limit 1;
    elsif l_count >= i_min_count or l_interval >= i_min_interval then
        next_tick_id := l_last.tick_id;
        next_tick_time := l_last.tick_time;
        next_tick_seq := l_last.tick_event_seq;
    end if;
end;
$$ language plpgsql stable;
