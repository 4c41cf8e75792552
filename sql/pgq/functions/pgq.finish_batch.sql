-- pgq.finish_batch(batch): close a batch; its consumer moves to the batch's end
--   returns  1; 0 with a warning if there is no such batch
--   note     a subconsumer's row loses both ticks, as it has no position of its own
create or replace function pgq.finish_batch(x_batch_id bigint) returns integer as $$
begin
    update pgq.subscription s
       set sub_active = now(),
           sub_batch = null,
           sub_next_tick = null,
           sub_last_tick = case
                when exists (
                    select 1
                      from pgq.subscription m
                      join pgq.consumer mc on mc.co_id = m.sub_consumer
                      join pgq.consumer sc on sc.co_id = s.sub_consumer
                     where m.sub_queue = s.sub_queue and m.sub_id = s.sub_id
                       and m.sub_consumer <> s.sub_consumer
                       and starts_with(sc.co_name, mc.co_name || '.'))
                then null
                else s.sub_next_tick
           end
     where s.sub_batch = x_batch_id;
    if not found then
        raise warning 'finish_batch: batch % not found', x_batch_id;
        return 0;
    end if;
    return 1;
end;
$$ language plpgsql security definer set search_path = pg_catalog, pg_temp;
