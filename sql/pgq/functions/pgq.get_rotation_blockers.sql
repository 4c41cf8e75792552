-- pgq.get_rotation_blockers(queue): who keeps event tables that are due from being rotated, and so the disk
--   from being freed (Skytide's addition)
--   queue        null: all
--   kind         consumer     has not moved past the last switch of tables
--                transaction  was open at the newest tick, or is while there are no consumers, and began before the
--                             switch was seen
--                prepared     the same, prepared
--                ticker       has made no tick since the last switch
--                lock         somebody uses the table whose turn it is
--                maintenance  nobody is in the way: rotation is not run
--   who          consumer, user and application, or name of the prepared transaction
--   since        position of the consumer, begin of the transaction, newest tick, ...; null if not to be seen
--   held_for     since then
--   overdue      how long rotation waits
--   note         nothing while no rotation is due. See other users' transactions with pg_read_all_stats
create or replace function pgq.get_rotation_blockers(
    in i_queue_name text default null,
    out queue_name text, out kind text, out who text, out pid integer, out since timestamptz,
    out held_for interval, out overdue interval, out detail text)
returns setof record as $$
declare
    q       record;
    b       record;
    l_any   boolean;
begin
    for q in
        select t.*, t.queue_switch_time + t.queue_rotation_period as due,
               t.queue_data_pfx || '_' || (t.queue_cur_table + 1) % t.queue_ntables as next_table,
               n.tick_time, txid_snapshot_xmin(n.tick_snapshot) as tick_xmin
          from pgq.queue t
          left join lateral (
                select i.tick_time, i.tick_snapshot
                  from pgq.tick i
                 where i.tick_queue = t.queue_id
                 order by i.tick_id desc
                 limit 1) n on true
         where (i_queue_name is null or t.queue_name = i_queue_name)
           and t.queue_switch_time + t.queue_rotation_period < now()
         order by t.queue_name
    loop
        l_any := false;
        for b in
            -- a consumer is in the way if it could move on, else what holds the ticks back is
            select 'consumer' as kind, c.co_name as who, null::integer as pid, p.tick_time as since,
                   concat_ws(', ',
                             case when s.sub_paused then 'paused' end,
                             'at tick ' || s.sub_last_tick,
                             'batch ' || s.sub_batch || ' open',
                             'last seen ' || date_trunc('second', now() - s.sub_active) || ' ago') as detail
              from pgq.subscription s
              join pgq.consumer c on c.co_id = s.sub_consumer
              join pgq.tick p on p.tick_queue = s.sub_queue and p.tick_id = s.sub_last_tick
             where s.sub_queue = q.queue_id
               and txid_snapshot_xmin(p.tick_snapshot) <= q.queue_switch_step2
               and q.tick_xmin > q.queue_switch_step2
            union all
            select 'transaction', concat_ws(' ', a.usename, nullif(a.application_name, '')), a.pid, a.xact_start,
                   concat_ws(', ', a.state, 'transaction ' || a.backend_xid::text, 'database ' || a.datname)
              from pg_catalog.pg_stat_activity a
             where a.backend_xid is not null and pgq._full_txid(a.backend_xid) <= q.queue_switch_step2
               and (q.tick_xmin <= q.queue_switch_step2
                    or not exists (select 1 from pgq.subscription s where s.sub_queue = q.queue_id))
            union all
            select 'prepared', x.gid, null, x.prepared,
                   concat_ws(', ', 'transaction ' || x.transaction::text, 'database ' || x.database)
              from pg_catalog.pg_prepared_xacts x
             where pgq._full_txid(x.transaction) <= q.queue_switch_step2
               and (q.tick_xmin <= q.queue_switch_step2
                    or not exists (select 1 from pgq.subscription s where s.sub_queue = q.queue_id))
             order by since
        loop
            l_any := true;
            queue_name := q.queue_name;
            kind := b.kind;
            who := b.who;
            pid := b.pid;
            since := b.since;
            held_for := now() - b.since;
            overdue := now() - q.due;
            detail := b.detail;
            return next;
        end loop;
        continue when l_any;

        queue_name := q.queue_name;
        overdue := now() - q.due;
        pid := null;
        who := null;
        if q.queue_switch_step2 is null then
            kind := 'maintenance';
            since := q.queue_switch_time;
            detail := 'step 2 was not run after the last switch';
        elsif q.tick_xmin <= q.queue_switch_step2
            and exists (select 1 from pgq.subscription s where s.sub_queue = q.queue_id)
        then
            kind := 'ticker';
            since := q.tick_time;
            detail := case
                when q.queue_ticker_paused then 'ticks are paused'
                when q.queue_external_ticker then 'ticks come from the provider'
                else 'no tick since then'
            end;
        else
            kind := 'maintenance';
            since := q.due;
            detail := 'step 1 was not run since it is due';
            select concat_ws(' ', a.usename, nullif(a.application_name, '')) as who, l.pid,
                   a.xact_start as since, l.mode || ' on ' || q.next_table as detail
              into b
              from pg_catalog.pg_locks l
              left join pg_catalog.pg_stat_activity a on a.pid = l.pid
             where l.locktype = 'relation' and l.granted
               and l.database = (select d.oid from pg_catalog.pg_database d where d.datname = current_database())
               and l.relation = to_regclass(pgq.quote_fqname(q.next_table))
             order by a.xact_start
             limit 1;
            if found then
                kind := 'lock';
                who := b.who;
                pid := b.pid;
                since := b.since;
                detail := b.detail;
            end if;
        end if;
        held_for := now() - since;
        return next;
    end loop;
end;
$$ language plpgsql;
