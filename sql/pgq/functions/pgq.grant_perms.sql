-- pgq.grant_perms(queue): give a queue's tables the privileges of pgq.event_template
--   returns  1
--   errors   Queue not found
create or replace function pgq.grant_perms(x_queue_name text) returns integer as $$
declare
    q   record;
begin
    select t.queue_ntables, t.queue_data_pfx, t.queue_event_seq, t.queue_tick_seq
      into q
      from pgq.queue t
     where t.queue_name = x_queue_name;
    if not found then
        raise exception 'Queue not found';
    end if;

    execute format('grant select on %s, %s to public',
                   pgq.quote_fqname(q.queue_event_seq), pgq.quote_fqname(q.queue_tick_seq));
    execute format('grant usage on %s to pgq_admin', pgq.quote_fqname(q.queue_event_seq));
    perform pgq._grant_perms_from('pgq', 'event_template',
                                  split_part(q.queue_data_pfx, '.', 1), split_part(q.queue_data_pfx, '.', 2));
    for i in 0 .. q.queue_ntables - 1 loop
        perform pgq._grant_perms_from('pgq', 'event_template', split_part(q.queue_data_pfx, '.', 1),
                                      split_part(q.queue_data_pfx, '.', 2) || '_' || i);
    end loop;
    return 1;
end;
$$ language plpgsql security definer set search_path = pg_catalog, pg_temp;
