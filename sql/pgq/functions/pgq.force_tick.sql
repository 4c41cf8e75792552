-- pgq.force_tick(queue): make the ticker tick at its next look, by moving the event sequence
--   returns  newest tick there is now; call until it changes. null for an unknown queue
--   hazard   event ids get a gap
create or replace function pgq.force_tick(i_queue_name text) returns bigint as $$
declare
    q   record;
begin
    select t.queue_event_seq, t.queue_ticker_max_count
      into q
      from pgq.queue t
     where t.queue_name = i_queue_name
       and not t.queue_external_ticker
       and not t.queue_ticker_paused;
    if found then
        perform setval(pgq.quote_fqname(q.queue_event_seq)::regclass,
                       nextval(pgq.quote_fqname(q.queue_event_seq)::regclass)
                       + q.queue_ticker_max_count * 2 + 1000);
    end if;
    return (select max(t.tick_id)
              from pgq.tick t
              join pgq.queue u on u.queue_id = t.tick_queue
             where u.queue_name = i_queue_name);
end;
$$ language plpgsql security definer set search_path = pg_catalog, pg_temp;
