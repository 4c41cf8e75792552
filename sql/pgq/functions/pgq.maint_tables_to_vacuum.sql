-- pgq.maint_tables_to_vacuum(): small busy tables that maintenance should vacuum
--   returns  those that exist; nothing while autovacuum is on
create or replace function pgq.maint_tables_to_vacuum() returns setof text as $$
begin
    if current_setting('autovacuum')::boolean then
        return;
    end if;
    return query
    select n.nspname || '.' || c.relname
      from unnest(
            array['pgq', 'pgq', 'pgq', 'pgq', 'pgq', 'pgq', 'pgq', 'pgq_ext', 'pgq_ext', 'pgq_ext', 'pgq_ext',
                  'pgq_node', 'londiste', 'txid', 'londiste'],
            array['subscriber', 'consumer', 'queue', 'tick', 'retry_queue', 'dead_letter', 'delayed_event',
                  'completed_tick', 'completed_batch', 'completed_event', 'partial_batch',
                  'local_state', 'seq_info', 'epoch', 'completed']) with ordinality as w (nsp, rel, nr)
      join pg_catalog.pg_namespace n on n.nspname = w.nsp
      join pg_catalog.pg_class c on c.relnamespace = n.oid and c.relname = w.rel and c.relkind = 'r'
     order by w.nr;
end;
$$ language plpgsql;
