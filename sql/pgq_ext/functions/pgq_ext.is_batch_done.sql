-- pgq_ext.is_batch_done(consumer, subconsumer, batch): whether this was the last batch that was done
create or replace function pgq_ext.is_batch_done(a_consumer text, a_subconsumer text, a_batch_id bigint)
returns boolean as $$
begin
    return exists (
        select 1
          from pgq_ext.completed_batch b
         where b.consumer_id = a_consumer and b.subconsumer_id = a_subconsumer and b.last_batch_id = a_batch_id);
end;
$$ language plpgsql security definer set search_path = pg_catalog, pg_temp;

-- pgq_ext.is_batch_done(consumer, batch): the same without a subconsumer
create or replace function pgq_ext.is_batch_done(a_consumer text, a_batch_id bigint)
returns boolean as $$
begin
    return pgq_ext.is_batch_done(a_consumer, '', a_batch_id);
end;
$$ language plpgsql;
