-- pgq.dead_letter_replay(dead letter): give a dead letter to its consumer again (Skytide's addition)
--   returns  1; 0 if there is none of this id
--   errors   consumer not registered; 23505 if the event waits for a retry already
--   note     a retry event that is due at once, and may fail as often as a new one
create or replace function pgq.dead_letter_replay(i_dl_id bigint) returns integer as $$
declare
    d   record;
begin
    delete from pgq.dead_letter l
     using pgq.queue q
     where l.dl_id = i_dl_id and q.queue_id = l.dl_queue
    returning q.queue_name, l.* into d;
    if not found then
        return 0;
    end if;
    perform pgq.event_retry_raw(d.queue_name, d.dl_consumer, current_timestamp, d.ev_id, d.ev_time, null,
                                d.ev_type, d.ev_data, d.ev_extra1, d.ev_extra2, d.ev_extra3, d.ev_extra4);
    return 1;
end;
$$ language plpgsql security definer set search_path = pg_catalog, pg_temp;

-- pgq.dead_letter_replay(queue, consumer): the same for all of a consumer (Skytide's addition)
--   returns  number of events
create or replace function pgq.dead_letter_replay(i_queue_name text, i_consumer_name text) returns integer as $$
declare
    l_count integer;
begin
    select coalesce(sum(pgq.dead_letter_replay(d.dl_id)), 0) into l_count
      from pgq.dead_letter d
      join pgq.queue q on q.queue_id = d.dl_queue
     where q.queue_name = i_queue_name and d.dl_consumer = i_consumer_name;
    return l_count;
end;
$$ language plpgsql security definer set search_path = pg_catalog, pg_temp;
