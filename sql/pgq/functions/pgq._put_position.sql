-- pgq._put_position(queue id, consumer id, newest nr, last tick, batch, next tick, active): move a consumer
--   newest nr   only if its newest position is this one still; null: in any case
--   returns     whether it was moved; false if somebody else was faster, or it is not subscribed
--   errors      40001 in repeatable read or serializable if somebody else was faster
--   hazard      the lock is a statement of its own: only the next one's snapshot sees what the others did
--               meanwhile. An older snapshot is found out by the key: the number is taken
create or replace function pgq._put_position(
    i_queue_id integer, i_consumer_id integer, i_nr bigint,
    i_last_tick bigint, i_batch bigint, i_next_tick bigint, i_active timestamptz default now())
returns boolean as $$
declare
    l_serial    boolean := current_setting('transaction_isolation') not in ('read committed', 'read uncommitted');
begin
    perform 1
       from pgq.subscriber s
      where s.sub_queue = i_queue_id and s.sub_consumer = i_consumer_id
        for no key update;
    if not found then
        return false;
    end if;
    if l_serial then
        perform 1 from pgq.position_switch for share;
    end if;
    insert into pgq.position (pos_table, pos_queue, pos_consumer, pos_nr, pos_last_tick, pos_active, pos_batch,
                              pos_next_tick)
    select w.pos_table, i_queue_id, i_consumer_id, coalesce(p.pos_nr, 0) + 1, i_last_tick, i_active, i_batch,
           i_next_tick
      -- the row is missing after pg_dump --schema-only
      from (select coalesce((select p.pos_table from pgq.position_switch p), 0) as pos_table) w
      left join lateral (
            select n.pos_nr
              from pgq.position n
             where n.pos_queue = i_queue_id and n.pos_consumer = i_consumer_id
             order by n.pos_nr desc
             limit 1) p on true
     where i_nr is null or p.pos_nr = i_nr
    on conflict do nothing;
    if not found and l_serial then
        raise exception 'could not serialize access due to concurrent update'
            using errcode = 'serialization_failure';
    end if;
    return found;
end;
$$ language plpgsql;
