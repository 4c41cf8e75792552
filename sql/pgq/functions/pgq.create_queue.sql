-- pgq.create_queue(queue): create a queue with its tables, sequences and first tick
--   returns  1 created; 0 it was there
--   errors   Invalid NULL value
create or replace function pgq.create_queue(i_queue_name text) returns integer as $$
declare
    l_id        integer;
    l_pfx       text;
    l_id_seq    text;
    l_tick_seq  text;
    l_ntables   integer;
begin
    if i_queue_name is null then
        raise exception 'Invalid NULL value';
    end if;
    if exists (select 1 from pgq.queue q where q.queue_name = i_queue_name) then
        return 0;
    end if;

    l_id := nextval('pgq.queue_queue_id_seq');
    l_pfx := 'pgq.event_' || l_id;
    l_id_seq := l_pfx || '_id_seq';
    l_tick_seq := l_pfx || '_tick_seq';
    insert into pgq.queue (queue_id, queue_name, queue_data_pfx, queue_event_seq, queue_tick_seq)
    values (l_id, i_queue_name, l_pfx, l_id_seq, l_tick_seq)
    on conflict (queue_name) do nothing
    returning queue_ntables into l_ntables;
    if not found then
        return 0;   -- created by another session meanwhile
    end if;

    execute format('create sequence %s', l_id_seq);
    execute format('create sequence %s', l_tick_seq);
    execute format('create table %s () inherits (pgq.event_template)', l_pfx);
    for i in 0 .. l_ntables - 1 loop
        execute format('create table %s_%s () inherits (%s)', l_pfx, i, l_pfx);
        execute format('alter table %s_%s alter column ev_id set default nextval(%L)', l_pfx, i, l_id_seq);
        execute format('create index event_%s_%s_txid_idx on %s_%s using btree (ev_txid)', l_id, i, l_pfx, i);
    end loop;

    perform pgq.grant_perms(i_queue_name);
    perform pgq.ticker(i_queue_name);
    perform pgq.tune_storage(i_queue_name);
    return 1;
end;
$$ language plpgsql security definer set search_path = pg_catalog, pg_temp;
