-- pgq.dead_letter_purge(dead letter): forget a dead letter (Skytide's addition)
--   returns  1; 0 if there is none of this id
create or replace function pgq.dead_letter_purge(i_dl_id bigint) returns integer as $$
begin
    delete from pgq.dead_letter where dl_id = i_dl_id;
    return found::integer;
end;
$$ language plpgsql security definer set search_path = pg_catalog, pg_temp;

-- pgq.dead_letter_purge(queue, consumer, age): forget those that are older (Skytide's addition)
--   queue, consumer   null: all
--   returns           number of dead letters
create or replace function pgq.dead_letter_purge(
    i_queue_name text, i_consumer_name text default null, i_min_age interval default '0')
returns integer as $$
declare
    l_count integer;
begin
    delete from pgq.dead_letter d
     using pgq.queue q
     where q.queue_id = d.dl_queue
       and (i_queue_name is null or q.queue_name = i_queue_name)
       and (i_consumer_name is null or d.dl_consumer = i_consumer_name)
       and d.dl_time <= current_timestamp - i_min_age;
    get diagnostics l_count = row_count;
    return l_count;
end;
$$ language plpgsql security definer set search_path = pg_catalog, pg_temp;
