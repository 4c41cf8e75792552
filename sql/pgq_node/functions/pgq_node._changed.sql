-- pgq_node._changed(queue): tell the node's worker to look at its tables and wishes at once
--   note     a notification on channel pgq_node_changed with the queue's name; sent at commit
create or replace function pgq_node._changed(i_queue_name text) returns void as $$
    select pg_catalog.pg_notify('pgq_node_changed', i_queue_name);
$$ language sql;
