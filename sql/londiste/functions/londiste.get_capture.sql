-- londiste.get_capture(queue): how the queue's table changes are captured (Skytide's addition)
--   returns  wal or trigger; null if this database has no node of the queue
create or replace function londiste.get_capture(i_queue_name text) returns text as $$
    select coalesce(c.capture, 'wal')
      from pgq_node.node_info n
      left join londiste.capture_info c on c.queue_name = n.queue_name
     where n.queue_name = i_queue_name;
$$ language sql strict stable;
