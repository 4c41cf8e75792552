-- pgq_coop.finish_batch(batch): close a subconsumer's batch
--   returns  1; 0 with a warning if no subconsumer has such a batch
create or replace function pgq_coop.finish_batch(i_batch_id bigint) returns integer as $$
begin
    -- a consumer of its own would lose its position by this
    if exists (
        select 1
          from pgq.subscription s
          join pgq.consumer c on c.co_id = s.sub_consumer
          join pgq.subscription m on m.sub_queue = s.sub_queue and m.sub_id = s.sub_id
                                 and m.sub_consumer <> s.sub_consumer
          join pgq.consumer mc on mc.co_id = m.sub_consumer
         where s.sub_batch = i_batch_id and starts_with(c.co_name, mc.co_name || '.'))
    then
        update pgq.subscription
           set sub_active = now(), sub_last_tick = null, sub_next_tick = null, sub_batch = null
         where sub_batch = i_batch_id;
        if found then
            return 1;
        end if;
    end if;
    raise warning 'coop_finish_batch: batch % not found', i_batch_id;
    return 0;
end;
$$ language plpgsql security definer set search_path = pg_catalog, pg_temp;
