-- londiste.is_replica_func(function): whether a function is one of pgq's capture triggers
create or replace function londiste.is_replica_func(func_oid oid) returns boolean as $$
    select exists (
        select 1
          from pg_catalog.pg_proc p
          join pg_catalog.pg_namespace n on n.oid = p.pronamespace
         where p.oid = func_oid and n.nspname = 'pgq'
           and (p.proname in ('sqltriga', 'logutriga', 'jsontriga')
                or p.proname ~ '^_(jsontriga|logutriga)_[0-9]+_[0-9a-f]{8}$'));     -- of pgq.compile_trigger
$$ language sql strict stable;
