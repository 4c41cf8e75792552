-- pgq_ext.upgrade_schema(): bring older tables to this version's form
--   returns  number of changes
--   note     tables without subconsumers get the column, and their key is made anew around it
create or replace function pgq_ext.upgrade_schema() returns integer as $$
declare
    t           record;
    l_count     integer := 0;
begin
    for t in
        select c.oid::regclass as name, v.key,
               (select format('drop constraint %I, ', k.conname)
                  from pg_catalog.pg_constraint k
                 where k.conrelid = c.oid and k.contype = 'p') as drop_key
          from (values
                ('completed_tick', 'consumer_id, subconsumer_id'),
                ('completed_batch', 'consumer_id, subconsumer_id'),
                ('completed_event', 'consumer_id, subconsumer_id, batch_id, event_id'),
                ('partial_batch', 'consumer_id, subconsumer_id')) as v (relname, key)
          join pg_catalog.pg_class c on c.oid = to_regclass('pgq_ext.' || v.relname)
         where not exists (
                select 1 from pg_catalog.pg_attribute a
                 where a.attrelid = c.oid and a.attname = 'subconsumer_id' and not a.attisdropped)
    loop
        execute format('alter table %s add column subconsumer_id text not null default ''''', t.name);
        execute format('alter table %s %sadd primary key (%s)', t.name, t.drop_key, t.key);
        l_count := l_count + 1;
    end loop;
    return l_count;
end;
$$ language plpgsql security definer set search_path = pg_catalog, pg_temp;
