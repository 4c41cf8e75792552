-- pgq.drop_queue(queue, force): remove a queue and its events, dead letters and delayed events
--   returns  1
--   errors   No such event queue; consumers still attached, unless forced: then they are unregistered
create or replace function pgq.drop_queue(x_queue_name text, x_force boolean) returns integer as $$
declare
    q   record;
    s   record;
begin
    select t.queue_id, t.queue_ntables, t.queue_data_pfx, t.queue_event_seq, t.queue_tick_seq
      into q
      from pgq.queue t
     where t.queue_name = x_queue_name
       for update;
    if not found then
        raise exception 'No such event queue';
    end if;

    -- whoever makes a tick now would leave it behind
    perform pgq._lock_ticks(q.queue_id);
    if coalesce(x_force, false) then
        for s in
            select c.co_name
              from pgq.subscriber t
              join pgq.consumer c on c.co_id = t.sub_consumer
             where t.sub_queue = q.queue_id
        loop
            perform pgq.unregister_consumer(x_queue_name, s.co_name);
        end loop;
    elsif exists (select 1 from pgq.subscriber t where t.sub_queue = q.queue_id) then
        raise exception 'cannot drop queue, consumers still attached';
    end if;

    for i in 0 .. q.queue_ntables - 1 loop
        execute format('drop table %s', pgq.quote_fqname(q.queue_data_pfx || '_' || i));
    end loop;
    execute format('drop table %s', pgq.quote_fqname(q.queue_data_pfx));
    execute format('drop sequence %s', pgq.quote_fqname(q.queue_tick_seq));
    execute format('drop sequence %s', pgq.quote_fqname(q.queue_event_seq));
    delete from pgq.tick where tick_queue = q.queue_id;
    delete from pgq.retry_queue where ev_queue = q.queue_id;
    delete from pgq.dead_letter where dl_queue = q.queue_id;
    delete from pgq.delayed_event where ev_queue = q.queue_id;
    delete from pgq.queue where queue_id = q.queue_id;
    return 1;
end;
$$ language plpgsql security definer set search_path = pg_catalog, pg_temp;

-- pgq.drop_queue(queue): remove a queue that has no consumers
create or replace function pgq.drop_queue(x_queue_name text) returns integer as $$
begin
    return pgq.drop_queue(x_queue_name, false);
end;
$$ language plpgsql strict;
