-- pgq.insert_event_at(queue, time, type, data, extra1..4): put an event into a queue at a later time
--   (Skytide's addition)
--   time     ev_time of the event, too. One that is past or null: at once
--   returns  event id, as consumers will see it; pgq.cancel_event_at takes it
--   errors   as pgq.insert_event
--   note     does not count for the queue's limit of events in a transaction
--   note     delivered once, in the first batch after maintenance found it due: some seconds late, and
--            sorted by its id, that is, before younger events of its batch
create or replace function pgq.insert_event_at(
    queue_name text, deliver_at timestamptz, ev_type text, ev_data text,
    ev_extra1 text default null, ev_extra2 text default null,
    ev_extra3 text default null, ev_extra4 text default null)
returns bigint as $$
declare
    i_queue_name    alias for $1;
    q               record;
begin
    if deliver_at <= now() or deliver_at is null then
        return pgq.insert_event(i_queue_name, ev_type, ev_data, ev_extra1, ev_extra2, ev_extra3, ev_extra4);
    end if;
    select t.queue_id, t.queue_disable_insert, nextval(t.queue_event_seq::regclass) as next_id
      into q
      from pgq.queue t
     where t.queue_name = i_queue_name;
    if not found then
        raise exception 'No such queue: %', i_queue_name;
    end if;
    if q.queue_disable_insert then
        raise exception 'Insert into queue disallowed';
    end if;
    insert into pgq.delayed_event
    values (deliver_at, q.queue_id, q.next_id, ev_type, ev_data, ev_extra1, ev_extra2, ev_extra3, ev_extra4);
    return q.next_id;
end;
$$ language plpgsql security definer set search_path = pg_catalog, pg_temp;
