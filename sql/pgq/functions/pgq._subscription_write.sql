-- pgq._subscription_write(): lets pgq.subscription be changed like a table
--   note     a row that somebody else moved meanwhile is left alone, and not counted
create or replace function pgq._subscription_write() returns trigger as $$
begin
    if tg_op = 'DELETE' then
        delete from pgq.subscriber where sub_queue = old.sub_queue and sub_consumer = old.sub_consumer;
        return old;
    end if;
    if tg_op = 'INSERT' then
        new.sub_id := coalesce(new.sub_id, nextval('pgq.subscription_sub_id_seq'));
        new.sub_paused := coalesce(new.sub_paused, false);
        new.sub_active := coalesce(new.sub_active, now());
        insert into pgq.subscriber (sub_id, sub_queue, sub_consumer, sub_paused)
        values (new.sub_id, new.sub_queue, new.sub_consumer, new.sub_paused);
        new.sub_nr := null;
    else
        if (new.sub_queue, new.sub_consumer) <> (old.sub_queue, old.sub_consumer) then
            raise exception 'queue and consumer of a subscription cannot be changed';
        end if;
        if (new.sub_id, new.sub_paused) <> (old.sub_id, old.sub_paused) then
            update pgq.subscriber
               set sub_id = new.sub_id, sub_paused = new.sub_paused
             where sub_queue = old.sub_queue and sub_consumer = old.sub_consumer;
        end if;
        new.sub_nr := old.sub_nr;
        if (new.sub_last_tick, new.sub_active, new.sub_batch, new.sub_next_tick)
            is not distinct from (old.sub_last_tick, old.sub_active, old.sub_batch, old.sub_next_tick)
        then
            return new;
        end if;
    end if;
    if not pgq._put_position(new.sub_queue, new.sub_consumer, new.sub_nr,
                             new.sub_last_tick, new.sub_batch, new.sub_next_tick, new.sub_active) then
        return null;
    end if;
    return new;
end;
$$ language plpgsql security definer set search_path = pg_catalog, pg_temp;

drop trigger if exists subscription_write on pgq.subscription;
create trigger subscription_write
    instead of insert or update or delete on pgq.subscription
    for each row execute function pgq._subscription_write();
