-- pgq._snapshot_is_held(queue id): whether rows that are deleted now would stay for long
--   returns  true: a session, a standby, a slot or a prepared transaction keeps a snapshot from before the queue's
--            newest tick that is a minute old
--   note     what one must not see of other sessions does not include this
create or replace function pgq._snapshot_is_held(i_queue_id integer) returns boolean as $$
    with recent (xmin) as (
        select txid_snapshot_xmin(t.tick_snapshot)
          from pgq.tick t
         where t.tick_queue = i_queue_id and t.tick_time < now() - interval '1 minute'
         order by t.tick_id desc
         limit 1
    )
    select exists (
        select 1
          from recent r
          cross join (
            select unnest(array[a.backend_xmin, a.backend_xid])
              from pg_catalog.pg_stat_activity a
             where a.pid <> pg_backend_pid() and (a.datname = current_database() or a.datname is null)
            union all
            select s.xmin from pg_catalog.pg_replication_slots s
            union all
            select p.transaction from pg_catalog.pg_prepared_xacts p where p.database = current_database()
          ) as held (xmin)
         where held.xmin is not null and pgq._full_txid(held.xmin) < r.xmin);
$$ language sql;
