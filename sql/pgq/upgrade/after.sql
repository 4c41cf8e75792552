-- The rest of PgQ 2.1, once tables and functions are this version's.

-- its failed events are dead letters now
do $$
begin
    if to_regclass('pgq.failed_queue') is null then
        return;
    end if;
    insert into pgq.dead_letter (dl_time, dl_queue, dl_consumer, dl_reason, ev_id, ev_time, ev_retry, ev_type,
                                 ev_data, ev_extra1, ev_extra2, ev_extra3, ev_extra4)
    select f.ev_failed_time, s.sub_queue, c.co_name, f.ev_failed_reason, f.ev_id, f.ev_time, f.ev_retry, f.ev_type,
           f.ev_data, f.ev_extra1, f.ev_extra2, f.ev_extra3, f.ev_extra4
      from pgq.failed_queue f
      join pgq.subscriber s on s.sub_id = f.ev_owner
      join pgq.consumer c on c.co_id = s.sub_consumer;
    drop table pgq.failed_queue;
end;
$$;

-- and its result types have become columns; one that a function of yours uses stays
do $$
declare
    l_type  text;
begin
    foreach l_type in array array['ret_batch_event', 'ret_batch_info', 'ret_consumer_info', 'ret_queue_info'] loop
        begin
            execute format('drop type if exists pgq.%I', l_type);
        exception when dependent_objects_still_exist then
            null;
        end;
    end loop;
end;
$$;

-- rights on the table are rights on the view that took its name
do $$
begin
    perform pgq._grant_perms_from('pgq', 'subscriber', 'pgq', 'subscription');
end;
$$;

-- event tables of 2.1 were everybody's or nobody's
do $$
begin
    perform pgq.grant_perms(q.queue_name) from pgq.queue q;
end;
$$;
