-- pgq.get_dead_letters(queue, consumer, after, limit): look at dead letters (Skytide's addition)
--   queue, consumer   null: all
--   after             only those with a higher dl_id, for reading page by page
--   limit             of rows
create or replace function pgq.get_dead_letters(
    in i_queue_name text default null, in i_consumer_name text default null,
    in i_after bigint default 0, in i_limit integer default 100,
    out dl_id bigint, out queue_name text, out consumer_name text, out dead_since timestamptz, out reason text,
    out ev_id bigint, out ev_time timestamptz, out ev_retry integer, out ev_type text, out ev_data text,
    out ev_extra1 text, out ev_extra2 text, out ev_extra3 text, out ev_extra4 text)
returns setof record as $$
begin
    return query
    select d.dl_id, q.queue_name, d.dl_consumer, d.dl_time, d.dl_reason, d.ev_id, d.ev_time, d.ev_retry,
           d.ev_type, d.ev_data, d.ev_extra1, d.ev_extra2, d.ev_extra3, d.ev_extra4
      from pgq.dead_letter d
      join pgq.queue q on q.queue_id = d.dl_queue
     where d.dl_id > i_after
       and (i_queue_name is null or q.queue_name = i_queue_name)
       and (i_consumer_name is null or d.dl_consumer = i_consumer_name)
     order by d.dl_id
     limit i_limit;
end;
$$ language plpgsql;
