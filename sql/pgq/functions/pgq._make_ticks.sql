-- pgq._make_ticks(queue id, lag below, after, most): make the ticks that are due, all of them by one insert
--   queue id   look at this queue only, whose tick lock the caller holds; null: at all that are neither paused
--              nor ticked from outside
--   lag below  ... of these, those with a ticker_max_lag above 0 and below this; null: all
--   after, most  ... of these, those with a larger id, and so many of them; null: all
--   out        tick_ids      ticks made; null for none
--              seen          a snapshot. As long as it is the current one, no transaction has ended in the cluster,
--                            and another look would find what time has made due, nothing else. Null where that
--                            cannot be said, or a queue is damaged: its warning is to come again
--              due_at        when time makes the next queue due
--              shortest_lag  shortest ticker_max_lag above 0
--              last_queue    where to go on, if there may be more; else null
--   errors     of one queue, its newest tick comes from a cluster with older transaction ids, or a sequence is
--              missing; several queues get their ticks without that one, which is a warning
--   hazard     two statements, on purpose. The first finds what is due; the second, after the locks, has a younger
--              snapshot, which is the ticks', and passes over a queue that got a tick in between. A queue that
--              somebody else ticks at this moment is passed over as well
--   note       the first reads the event sequences: an event that is counted here is in this tick's batch or a
--              later one. Who pauses, drops or gives away a queue waits for the lock
create or replace function pgq._make_ticks(
    in i_queue_id integer, in i_lag_below interval, in i_after integer, in i_most integer,
    out tick_ids bigint[], out seen text, out due_at timestamptz, out shortest_lag interval,
    out last_queue integer)
returns record as $$
declare
    l_class     constant integer := pgq._tick_lock_class();
    l_first     constant integer := coalesce(i_queue_id, i_after + 1, 0);
    l_last      constant integer := coalesce(i_queue_id, 2147483647);
    -- rounds that are ticker_max_lag apart come a little early or late: each second one would find too young a tick
    l_early     constant interval := '0.5 ms';
    l_free_all  boolean;
    l_free      integer[];
    l           record;
    l_made      record;
    l_text      text;
begin
    -- the lock of all queues, or, if somebody has one of them, of each that is free
    l_free_all := i_queue_id is not null or pg_try_advisory_xact_lock(l_class, 0);
    if not l_free_all then
        if not pg_try_advisory_xact_lock_shared(l_class, 0) then
            return;
        end if;
        select array_agg(q.queue_id) filter (where pg_try_advisory_xact_lock(l_class, q.queue_id)),
               case when count(*) >= i_most then max(q.queue_id) end
          into l_free, last_queue
          from (
            select p.queue_id
              from pgq.queue p
             where not p.queue_external_ticker
               and not p.queue_ticker_paused
               and p.queue_id between l_first and l_last
               and (i_lag_below is null or (p.queue_ticker_max_lag > '0' and p.queue_ticker_max_lag < i_lag_below))
             order by p.queue_id
             limit i_most) q;
        l_free := coalesce(l_free, '{}');
    end if;

    select array_agg(d.queue_id)   filter (where d.tick_seq is not null) as queues,
           array_agg(d.event_seq)  filter (where d.tick_seq is not null) as event_seqs,
           array_agg(d.tick_seq)   filter (where d.tick_seq is not null) as tick_seqs,
           case when l_free_all and count(*) >= i_most then max(d.queue_id) end as last_queue,
           array_agg(d.doubt)      filter (where d.doubt is not null) as doubts,
           array_agg(coalesce(d.damage, array[d.queue_name, format('sequence %s is missing', d.tick_seq_name)]))
                                   filter (where d.damage is not null or d.is_due and d.tick_seq is null) as damages,
           min(case when d.is_due then now() + coalesce(greatest(d.max_lag / 2, least(d.age * 2, d.idle_period)), '0')
                    else d.due_at
               end) as due_at,
           min(d.max_lag)          filter (where d.max_lag > '0') as shortest_lag,
           (select txid_current_snapshot()::text) as snapshot
      into l
      from (
       -- names are looked up where they are needed: that is a tenth of a round
       select w.*, case when w.is_due then to_regclass(w.tick_seq_name)::oid end as tick_seq
         from (
        select c.*,
               case
                   when c.damage is not null then false
                   when c.tick_id is null then true
                   when c.new_events > 0 then c.new_events >= c.max_count or c.age >= c.max_lag - l_early
                   -- without events ticks become rarer, from half of max_lag to idle_period, and the second is
                   -- made at once. After one that cut events another comes in its time, if anything else has
                   -- ended since: that may be what was under way when those were cut
                   when c.tick_id = 1 then true
                   when c.age < c.max_lag / 2 then false
                   else coalesce(c.age >= c.idle_period or c.age >= (c.tick_time - b.tick_time) * 2
                                 or (c.age >= c.max_lag - l_early and c.others_ended
                                     and b.tick_event_seq < c.tick_event_seq),
                                 true)
               end as is_due,
               case
                   when c.new_events > 0 then c.tick_time + c.max_lag
                   when c.age < c.max_lag / 2 then c.tick_time + c.max_lag / 2
                   else c.tick_time + least(c.idle_period, (c.tick_time - b.tick_time) * 2,
                            case when c.others_ended and b.tick_event_seq < c.tick_event_seq then c.max_lag end)
               end as due_at
          from (
            select s.queue_id, s.queue_name, s.max_count, s.max_lag, s.idle_period, s.tick_id, s.tick_time, s.tick_event_seq,
                   s.event_seq, s.tick_seq_name,
                   s.cur_time - s.tick_time as age,
                   s.xmin <> s.xmax or s.txid > s.xmax + 1 as others_ended,
                   -- changes of tables that are read from the WAL do not move the event sequence: where the
                   -- queue is published, transactions count instead
                   case
                       when s.new_events >= s.max_count or s.txid - s.xmax < s.max_count then s.new_events
                       when s.data_pfx || '_0' in (
                            select n.nspname || '.' || k.relname
                              from pg_publication_rel p
                              join pg_class k on k.oid = p.prrelid
                              join pg_namespace n on n.oid = k.relnamespace)
                           then s.txid - s.xmax
                       else s.new_events
                   end as new_events,
                   case
                       when s.xmax > s.txid and s.xmin <= s.txid then
                           format('Dubious PgQ state: old xmax=%s, cur txid=%s', s.xmax, s.txid)
                       when s.new_events < 0 then
                           format('Negative new_events?  old=%s cur=%s', s.tick_event_seq, s.event_seq)
                   end as doubt,
                   case
                       when s.xmin > s.txid then
                           array[s.queue_name, format('Invalid PgQ state: old xmin=%s, old xmax=%s, cur txid=%s',
                                                      s.xmin, s.xmax, s.txid)]
                       when s.event_seq_oid is null then
                           array[s.queue_name, format('sequence %s is missing', s.event_seq_name)]
                   end as damage
              from (
                select v.*, coalesce(v.event_seq - v.tick_event_seq, 0) as new_events
                  from (
                    select q.queue_id, q.queue_name, q.queue_ticker_max_count as max_count,
                           q.queue_ticker_max_lag as max_lag, q.queue_ticker_idle_period as idle_period,
                           q.queue_data_pfx as data_pfx,
                           q.queue_event_seq as event_seq_name, q.event_seq_oid, q.queue_tick_seq as tick_seq_name,
                           t.tick_id, t.tick_time, t.tick_event_seq,
                           txid_snapshot_xmin(t.tick_snapshot) as xmin, txid_snapshot_xmax(t.tick_snapshot) as xmax,
                           now() as cur_time,
                           -- snapshot's xmax, not txid_current(): an idle queue must not use up a transaction id
                           (select txid_snapshot_xmax(txid_current_snapshot())) as txid,
                           coalesce(pg_sequence_last_value(q.event_seq_oid), 1) as event_seq
                      from (
                        select p.*, to_regclass(p.queue_event_seq) as event_seq_oid
                          from pgq.queue p
                         where not p.queue_external_ticker
                           and not p.queue_ticker_paused
                           and p.queue_id between l_first and l_last
                           and (i_lag_below is null
                                or (p.queue_ticker_max_lag > '0' and p.queue_ticker_max_lag < i_lag_below))
                           and (l_free_all or p.queue_id in (select f.queue_id from unnest(l_free) f (queue_id)))
                         order by p.queue_id
                         limit case when l_free_all then i_most end) q
                      left join lateral (
                            select n.tick_id, n.tick_time, n.tick_event_seq, n.tick_snapshot
                              from pgq.tick n
                             where n.tick_queue = q.queue_id
                             order by n.tick_id desc
                             limit 1) t on true) v) s
            offset 0) c
          -- looked for only where it matters
          left join lateral (
                select o.tick_time, o.tick_event_seq
                  from pgq.tick o
                 where c.new_events <= 0 and c.age >= c.max_lag / 2 and c.age < c.idle_period
                   and o.tick_queue = c.queue_id and o.tick_id < c.tick_id
                 order by o.tick_id desc
                 limit 1) b on true) w
       offset 0) d;
    last_queue := coalesce(last_queue, l.last_queue);
    shortest_lag := l.shortest_lag;
    due_at := l.due_at;
    if l.doubts is not null then
        foreach l_text in array l.doubts loop
            raise warning '%', l_text;
        end loop;
    end if;
    if l.damages is not null then
        if i_queue_id is not null then
            raise exception '%', l.damages[1][2]
                using hint = 'If the database was restored into a cluster with younger transaction ids, raise them '
                             'with pg_resetwal -x / -e.';
        end if;
        for i in 1 .. array_length(l.damages, 1) loop
            raise warning 'pgq.ticker: queue "%": %', l.damages[i][1], l.damages[i][2];
        end loop;
    end if;
    if l.queues is null then
        -- a lock may go without a trace in the snapshot
        seen := case when l_free_all and l.damages is null then l.snapshot end;
        return;
    end if;

    with made as (
        insert into pgq.tick (tick_queue, tick_id, tick_time, tick_snapshot, tick_event_seq)
        select d.queue_id, nextval(d.tick_seq), now(), (select txid_current_snapshot()), d.event_seq
          from unnest(l.queues, l.event_seqs, l.tick_seqs) as d (queue_id, event_seq, tick_seq)
        returning tick_queue, tick_id)
    select array_agg(m.tick_queue) as queues, array_agg(m.tick_id) as ticks into l_made from made m;
    tick_ids := l_made.ticks;
    perform pgq._tell_ticks(l_made.queues, l_made.ticks);
    -- if nothing was under way and no id was given away before ours, ours is all that ends by this
    if l_free_all and l.damages is null and l.snapshot = format('%s:%s:', txid_current(), txid_current()) then
        seen := format('%s:%s:', txid_current() + 1, txid_current() + 1);
    end if;
end;
$$ language plpgsql;
