-- pgq.maint_rotate_tables_step1(queue): switch to the queue's next event table if it is time and nobody needs it
--   returns  0
--   errors   other isolation than read committed; transaction id behind the last switch; a consumer's tick is missing
--   note     does nothing while the next table is locked, or the queue's row for longer than a moment: the next round
--            tries again
--   hazard   run step 2 in a later transaction
create or replace function pgq.maint_rotate_tables_step1(i_queue_name text) returns integer as $$
declare
    q           record;
    l_txid      bigint;
    l_lowest    bigint;
    l_xmin      bigint;
    l_next      integer;
    l_positions bigint[];
begin
    perform pgq._require_read_committed('pgq.maint_rotate_tables_step1()');
    begin
        -- waits up to lock_timeout: producers in repeatable read lock the row for a moment each, and many of them nearly
        -- always
        select t.queue_id, t.queue_switch_step1, t.queue_switch_step2, t.queue_cur_table, t.queue_ntables,
               t.queue_data_pfx
          into q
          from pgq.queue t
         where t.queue_name = i_queue_name
           and t.queue_switch_step2 is not null
           and t.queue_switch_time + t.queue_rotation_period < current_timestamp
           for update;
    exception when lock_not_available then
        return 0;
    end;
    if not found then
        return 0;
    end if;

    l_txid := txid_current();
    if l_txid < q.queue_switch_step1 then
        raise exception 'queue % maint failure: step1=%, current=%', i_queue_name, q.queue_switch_step1, l_txid;
    end if;

    select min(s.sub_last_tick) into l_lowest from pgq.subscription s where s.sub_queue = q.queue_id;
    if l_lowest is not null then
        select txid_snapshot_xmin(t.tick_snapshot) into l_xmin
          from pgq.tick t
         where t.tick_queue = q.queue_id and t.tick_id = l_lowest;
        if not found then
            raise exception 'queue % maint failure: tick % not found', i_queue_name, l_lowest;
        end if;
    else
        -- nobody has a position yet, but may take one before a transaction ends that wrote to the table before the
        -- current one
        l_xmin := txid_snapshot_xmin(txid_current_snapshot());
    end if;
    if l_xmin <= q.queue_switch_step2 then
        return 0;   -- somebody may still read the table before the current one
    end if;

    l_next := (q.queue_cur_table + 1) % q.queue_ntables;
    begin
        execute format('lock table %s in access exclusive mode nowait',
                       pgq.quote_fqname(q.queue_data_pfx || '_' || l_next));
        execute format('truncate %s', pgq.quote_fqname(q.queue_data_pfx || '_' || l_next));
    exception when lock_not_available then
        return 0;   -- pg_dump, most often
    end;

    update pgq.queue
       set queue_cur_table = l_next,
           queue_switch_time = current_timestamp,
           queue_switch_step1 = l_txid,
           queue_switch_step2 = null,
           queue_ticks_from = q.queue_switch_step2
     where queue_id = q.queue_id;

    -- old ticks go with the events, but never the newest one nor one that is somebody's position. As long as they would
    -- only become dead rows that no vacuum may take, they stay: a later rotation finds them
    if pgq._snapshot_is_held(q.queue_id) then
        return 0;
    end if;
    select array_agg(s.sub_last_tick) || array_agg(s.sub_next_tick) into l_positions
      from pgq.subscription s
     where s.sub_queue = q.queue_id;
    delete from pgq.tick t
     where t.tick_queue = q.queue_id
       and txid_snapshot_xmin(t.tick_snapshot) < q.queue_switch_step2
       and t.tick_id < (select max(n.tick_id) from pgq.tick n where n.tick_queue = q.queue_id)
       and t.tick_id <> all (array_remove(coalesce(l_positions, '{}'), null));
    return 0;
end;
$$ language plpgsql set lock_timeout = '100ms';
