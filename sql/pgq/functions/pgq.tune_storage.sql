-- pgq.tune_storage(queue): storage parameters of the event tables, which only grow and are truncated
--   returns  1; 0 for an unknown queue
create or replace function pgq.tune_storage(i_queue_name text) returns integer as $$
declare
    q   record;
begin
    select t.queue_ntables, t.queue_data_pfx into q from pgq.queue t where t.queue_name = i_queue_name;
    if not found then
        return 0;
    end if;
    for i in 0 .. q.queue_ntables - 1 loop
        execute format('alter table %s set (fillfactor = 100, autovacuum_enabled = off, '
                       'toast.autovacuum_enabled = off)',
                       pgq.quote_fqname(q.queue_data_pfx || '_' || i));
    end loop;
    return 1;
end;
$$ language plpgsql strict;
