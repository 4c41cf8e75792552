-- pgq._compile_again(): make what pgq.compile_trigger made as these modules would make it, with the rights of
--            pgq.insert_event; drop what no trigger calls
--   note     when the modules are installed. What can no longer be compiled stays: it falls back by itself
create or replace function pgq._compile_again() returns void as $$
declare
    t   record;
begin
    perform pgq._compile_insert(q.queue_id)
       from pgq.queue q
      where to_regprocedure(format('pgq._insert_event_%s(text,text,text,text,text,text)', q.queue_id)) is not null
      order by q.queue_id;
    for t in
        select distinct g.tgrelid, p.proname, pgq._trigger_args(g.oid) as args
          from pg_catalog.pg_trigger g
          join pg_catalog.pg_proc p on p.oid = g.tgfoid and p.pronamespace = 'pgq'::regnamespace
         where not g.tgisinternal and p.proname = format('_%s_%s_%s', split_part(p.proname, '_', 2), g.tgrelid,
                                                              left(md5(pgq._trigger_args(g.oid)::text), 8))
           and split_part(p.proname, '_', 2) in ('jsontriga', 'logutriga')
    loop
        perform pgq._compile_function(t.tgrelid, split_part(t.proname, '_', 2), t.args);
    end loop;
    perform pgq._drop_unused_triggers();
end;
$$ language plpgsql;
