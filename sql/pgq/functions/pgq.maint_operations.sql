-- pgq.maint_operations(): what maintenance has to do now, in this order
--   out      function and its argument; "vacuum" with a table
--   note     each in a transaction of its own; a first result column other than 0 asks for another call
create or replace function pgq.maint_operations(out func_name text, out func_arg text)
returns setof record as $$
declare
    l_rotating  boolean := false;
begin
    for func_name, func_arg in
        select 'pgq.maint_rotate_tables_step1', q.queue_name
          from pgq.queue q
         where q.queue_switch_step2 is not null
           and q.queue_switch_time + q.queue_rotation_period < current_timestamp
         order by q.queue_name
    loop
        l_rotating := true;
        return next;
    end loop;

    if l_rotating or exists (select 1 from pgq.queue q where q.queue_switch_step2 is null) then
        func_name := 'pgq.maint_rotate_tables_step2';
        func_arg := null;
        return next;
    end if;

    if pgq._positions_are_due() then
        func_name := 'pgq.maint_rotate_positions';
        func_arg := null;
        return next;
    end if;

    if exists (
        select 1
          from pg_catalog.pg_proc p
         where p.pronamespace = 'pgq'::regnamespace and p.proname ~ '^_(jsontriga|logutriga)_[0-9]+_[0-9a-f]{8}$'
           and not exists (select 1 from pg_catalog.pg_trigger t where t.tgfoid = p.oid))
    then
        func_name := 'pgq._drop_unused_triggers';
        func_arg := null;
        return next;
    end if;

    return query
    select m.name, q.queue_name
      from pgq.queue q
     cross join lateral unnest(q.queue_extra_maint) with ordinality as m (name, nr)
     order by q.queue_name, m.nr;

    return query select 'vacuum', t.* from pgq.maint_tables_to_vacuum() t;

    if to_regprocedure('pgq_node.maint_watermark(text)') is not null then
        return query
        select 'pgq_node.maint_watermark', n.queue_name
          from pgq_node.node_info n
         where n.node_type = 'root'
         order by n.queue_name;
    end if;

    if to_regprocedure('londiste.root_check_seqs(text)') is not null then
        return query
        select distinct 'londiste.root_check_seqs', s.queue_name
          from londiste.seq_info s
          join pgq_node.node_info n on n.queue_name = s.queue_name
         where s.local and n.node_type = 'root'
         order by 2;
    end if;

    if to_regprocedure('londiste.periodic_maintenance()') is not null then
        func_name := 'londiste.periodic_maintenance';
        func_arg := null;
        return next;
    end if;
end;
$$ language plpgsql;
