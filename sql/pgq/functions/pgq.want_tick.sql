-- pgq.want_tick(queue): ask the ticker for a tick (Skytide's addition)
--   errors   no such queue
--   note     a notification on channel pgq_tick_wanted with the queue's name; sent at commit
create or replace function pgq.want_tick(i_queue_name text) returns void as $$
begin
    if not exists (select 1 from pgq.queue q where q.queue_name = i_queue_name) then
        raise exception 'no such queue: %', i_queue_name;
    end if;
    perform pg_notify('pgq_tick_wanted', i_queue_name);
end;
$$ language plpgsql;
