-- pgq.drop_queue(queue, force): remove a queue and its events, dead letters and delayed events
--   returns  1
--   errors   No such event queue; consumers still attached, unless forced: then they are unregistered; delayed
--            events or dead letters are there, unless forced
create or replace function pgq.drop_queue(x_queue_name text, x_force boolean) returns integer as $$
declare
    q           record;
    s           record;
    l_delayed   bigint;
    l_dead      bigint;
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
    else
        select count(*) into l_delayed from pgq.delayed_event d where d.ev_queue = q.queue_id;
        select count(*) into l_dead from pgq.dead_letter d where d.dl_queue = q.queue_id;
        if l_delayed + l_dead > 0 then
            raise exception 'cannot drop queue, it has %', concat_ws(' and ',
                    'delayed events: ' || nullif(l_delayed, 0), 'dead letters: ' || nullif(l_dead, 0))
                using hint = 'Cancel delayed events or wait for their time, replay or purge dead letters, or use force.';
        end if;
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

-- pgq.drop_queue(queue): remove a queue that has no consumers, delayed events or dead letters
create or replace function pgq.drop_queue(x_queue_name text) returns integer as $$
begin
    return pgq.drop_queue(x_queue_name, false);
end;
$$ language plpgsql strict;
