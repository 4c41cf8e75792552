-- pgq_ext.set_event_done(consumer, subconsumer, batch, event): note an event of a batch as done
--   returns  true noted: go on and commit; false it was done already
--   note     events of the batch before are forgotten with the first one of another batch
create or replace function pgq_ext.set_event_done(
    a_consumer text, a_subconsumer text, a_batch_id bigint, a_event_id bigint)
returns boolean as $$
declare
    l_batch bigint;
begin
    if pgq_ext.is_event_done(a_consumer, a_subconsumer, a_batch_id, a_event_id) then
        return false;
    end if;
    select p.cur_batch_id into l_batch
      from pgq_ext.partial_batch p
     where p.consumer_id = a_consumer and p.subconsumer_id = a_subconsumer;
    if l_batch is distinct from a_batch_id then
        delete from pgq_ext.completed_event
         where consumer_id = a_consumer and subconsumer_id = a_subconsumer and batch_id = l_batch;
        insert into pgq_ext.partial_batch (consumer_id, subconsumer_id, cur_batch_id)
        values (a_consumer, a_subconsumer, a_batch_id)
        on conflict (consumer_id, subconsumer_id) do update set cur_batch_id = excluded.cur_batch_id;
    end if;
    insert into pgq_ext.completed_event (consumer_id, subconsumer_id, batch_id, event_id)
    values (a_consumer, a_subconsumer, a_batch_id, a_event_id)
    on conflict do nothing;
    return found;
end;
$$ language plpgsql security definer set search_path = pg_catalog, pg_temp;

-- pgq_ext.set_event_done(consumer, batch, event): the same without a subconsumer
create or replace function pgq_ext.set_event_done(a_consumer text, a_batch_id bigint, a_event_id bigint)
returns boolean as $$
begin
    return pgq_ext.set_event_done(a_consumer, '', a_batch_id, a_event_id);
end;
$$ language plpgsql;
