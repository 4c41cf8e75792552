-- pgq_ext.get_last_tick(consumer, subconsumer): the last tick that was done
--   returns  tick id; null if there is none
create or replace function pgq_ext.get_last_tick(a_consumer text, a_subconsumer text) returns bigint as $$
begin
    return (select t.last_tick_id
              from pgq_ext.completed_tick t
             where t.consumer_id = a_consumer and t.subconsumer_id = a_subconsumer);
end;
$$ language plpgsql security definer set search_path = pg_catalog, pg_temp;

-- pgq_ext.get_last_tick(consumer): the same without a subconsumer
create or replace function pgq_ext.get_last_tick(a_consumer text) returns bigint as $$
begin
    return pgq_ext.get_last_tick(a_consumer, '');
end;
$$ language plpgsql;
