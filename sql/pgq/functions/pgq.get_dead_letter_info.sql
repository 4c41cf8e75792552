-- pgq.get_dead_letter_info(): how many dead letters there are, of which queue and consumer (Skytide's addition)
create or replace function pgq.get_dead_letter_info(
    out queue_name text, out consumer_name text,
    out dead_letters bigint, out oldest timestamptz, out newest timestamptz)
returns setof record as $$
begin
    return query
    select q.queue_name, d.dl_consumer, count(*), min(d.dl_time), max(d.dl_time)
      from pgq.dead_letter d
      join pgq.queue q on q.queue_id = d.dl_queue
     group by q.queue_name, d.dl_consumer
     order by q.queue_name, d.dl_consumer;
end;
$$ language plpgsql security definer set search_path = pg_catalog, pg_temp;
