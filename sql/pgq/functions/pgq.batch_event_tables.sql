-- pgq.batch_event_tables(batch): event tables that may hold the batch's events
--   returns  the previous table, then the current one. Always both: the index on ev_txid makes a look
--            into the other cheap, and no rule about the moment of rotation can be wrong then
--   errors   Cannot find data for batch
create or replace function pgq.batch_event_tables(x_batch_id bigint) returns setof text as $$
declare
    q   record;
begin
    select t.queue_data_pfx as pfx, t.queue_ntables as ntables, t.queue_cur_table as cur
      into q
      from pgq._batch(x_batch_id) s
      join pgq.queue t on t.queue_id = s.sub_queue;
    if not found then
        raise exception 'Cannot find data for batch %', x_batch_id;
    end if;
    if q.ntables > 1 then
        return next q.pfx || '_' || (q.cur + q.ntables - 1) % q.ntables;
    end if;
    return next q.pfx || '_' || q.cur;
end;
$$ language plpgsql;
