-- pgq._tick_if_due(queue id): apply the queue's tick rules
--   returns  tick id; null if none was due, or the queue is gone, paused or ticked from outside
--   errors   the newest tick comes from a cluster with older transaction ids
--   hazard   the caller holds the queue's tick lock; everything is read again here, because what the
--            caller saw before it waited may be old
create or replace function pgq._tick_if_due(i_queue_id integer) returns bigint as $$
    select m.tick_ids[1] from pgq._make_ticks(i_queue_id, null, null, null) m;
$$ language sql;
