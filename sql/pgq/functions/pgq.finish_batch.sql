-- pgq.finish_batch(batch): close a batch; its consumer moves to the batch's end
--   returns  1; 0 with a warning if there is no such batch
--   errors   40001 in repeatable read or serializable if the snapshot is too old to know
--   note     a subconsumer's row loses both ticks, as it has no position of its own
create or replace function pgq.finish_batch(x_batch_id bigint) returns integer as $$
declare
    s   record;
begin
    loop
        select b.sub_queue, b.sub_consumer, b.sub_nr, b.sub_next_tick,
               exists (
                    select 1
                      from pgq.subscriber m
                      join pgq.consumer mc on mc.co_id = m.sub_consumer
                      join pgq.consumer sc on sc.co_id = b.sub_consumer
                     where m.sub_queue = b.sub_queue and m.sub_id = b.sub_id
                       and m.sub_consumer <> b.sub_consumer
                       and starts_with(sc.co_name, mc.co_name || '.')) as is_sub
          into s
          from pgq._batch(x_batch_id) b;
        if not found then
            perform pgq._require_seen_positions();
            raise warning 'finish_batch: batch % not found', x_batch_id;
            return 0;
        end if;
        if pgq._put_position(s.sub_queue, s.sub_consumer, s.sub_nr,
                             case when not s.is_sub then s.sub_next_tick end, null, null) then
            return 1;
        end if;
    end loop;
end;
$$ language plpgsql security definer set search_path = pg_catalog, pg_temp;
