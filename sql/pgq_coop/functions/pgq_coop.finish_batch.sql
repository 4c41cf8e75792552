-- pgq_coop.finish_batch(batch): close a subconsumer's batch
--   returns  1; 0 with a warning if no subconsumer has such a batch
--   errors   40001 in repeatable read or serializable if the snapshot is too old to know
create or replace function pgq_coop.finish_batch(i_batch_id bigint) returns integer as $$
begin
    -- a consumer of its own is none of ours
    if exists (
        select 1
          from pgq._batch(i_batch_id) s
          join pgq.consumer c on c.co_id = s.sub_consumer
          join pgq.subscriber m on m.sub_queue = s.sub_queue and m.sub_id = s.sub_id
                               and m.sub_consumer <> s.sub_consumer
          join pgq.consumer mc on mc.co_id = m.sub_consumer
         where starts_with(c.co_name, mc.co_name || '.'))
    then
        return pgq.finish_batch(i_batch_id);
    end if;
    perform pgq._require_seen_positions();
    raise warning 'coop_finish_batch: batch % not found', i_batch_id;
    return 0;
end;
$$ language plpgsql security definer set search_path = pg_catalog, pg_temp;
