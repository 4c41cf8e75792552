-- pgq_ext.set_batch_done(consumer, subconsumer, batch): note a batch as done
--   returns  true noted: go on and commit; false it was the last one done already
--   note     ids of 0 and below are not stored: true every time
--   hazard   two sessions with one batch: the second waits here, then gets false
create or replace function pgq_ext.set_batch_done(a_consumer text, a_subconsumer text, a_batch_id bigint)
returns boolean as $$
begin
    if pgq_ext.is_batch_done(a_consumer, a_subconsumer, a_batch_id) then
        return false;
    end if;
    if a_batch_id > 0 then
        insert into pgq_ext.completed_batch as b (consumer_id, subconsumer_id, last_batch_id)
        values (a_consumer, a_subconsumer, a_batch_id)
        on conflict (consumer_id, subconsumer_id) do update
           set last_batch_id = excluded.last_batch_id
         where b.last_batch_id <> excluded.last_batch_id;
        return found;
    end if;
    return true;
end;
$$ language plpgsql security definer set search_path = pg_catalog, pg_temp;

-- pgq_ext.set_batch_done(consumer, batch): the same without a subconsumer
create or replace function pgq_ext.set_batch_done(a_consumer text, a_batch_id bigint)
returns boolean as $$
begin
    return pgq_ext.set_batch_done(a_consumer, '', a_batch_id);
end;
$$ language plpgsql;
