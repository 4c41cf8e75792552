-- pgq.register_consumer(queue, consumer): subscribe from the newest tick on
--   returns  1 new; 0 was subscribed, position untouched
--   errors   Event queue not created yet; No ticks for this queue
create or replace function pgq.register_consumer(x_queue_name text, x_consumer_id text) returns integer as $$
begin
    return pgq.register_consumer_at(x_queue_name, x_consumer_id, null);
end;
$$ language plpgsql security definer set search_path = pg_catalog, pg_temp;
