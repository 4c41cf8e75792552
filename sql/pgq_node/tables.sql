-- Schema pgq_node: which nodes carry a queue, and what this database's node is.
--
-- Functions answer with ret_code and ret_note: 1xx and 2xx done, 3xx warning, go on and commit, from
-- 400 refused: the caller rolls back.
--
-- A root also puts these events into the queue:
--   pgq.location-info         data node, extra1 queue, extra2 location, extra3 dead ('true', 'false')
--   pgq.unregister-location   data node, extra1 queue
--   pgq.global-watermark      data tick id, extra1 queue

create schema if not exists pgq_node;
grant usage on schema pgq_node to public;

-- Every known node of a queue.
--   node_location   libpq connect string
--   dead            given up: nobody waits for it
create table if not exists pgq_node.node_location (
    queue_name      text    not null,
    node_name       text    not null,
    node_location   text    not null,
    dead            boolean not null default false,
    constraint node_location_pkey primary key (queue_name, node_name)
);

-- This database's node of a queue; one at most.
--   node_type        root: events are made here; branch: copied here and read from here; leaf: applied only
--   worker_name      consumer that does the node's work
--   combined_queue   leaf only: local queue into which its events are merged
--   node_attrs       urlencoded dictionary
create table if not exists pgq_node.node_info (
    queue_name      text not null,
    node_type       text not null,
    node_name       text not null,
    worker_name     text,
    combined_queue  text,
    node_attrs      text,
    constraint node_info_pkey primary key (queue_name),
    constraint node_info_queue_name_node_name_fkey foreign key (queue_name, node_name)
        references pgq_node.node_location (queue_name, node_name),
    constraint node_info_check check (
        case node_type
            when 'root' then worker_name is not null and combined_queue is null
            when 'branch' then worker_name is not null and combined_queue is null
            when 'leaf' then worker_name is not null
            else false
        end)
);

-- Position of each cascaded consumer that writes into this node. Updated with every batch: pages keep
-- room, so that the new version of a row goes beside the old one and no index is touched.
--   provider_node   node it reads from; a root's worker reads from itself
--   last_tick_id    last tick that is committed here
--   cur_error       what it failed with last; null after a success
--   paused          it must not work
--   uptodate        it has seen the last change made by an administrator
create table if not exists pgq_node.local_state (
    queue_name      text    not null,
    consumer_name   text    not null,
    provider_node   text    not null,
    last_tick_id    bigint  not null,
    cur_error       text,
    paused          boolean not null default false,
    uptodate        boolean not null default false,
    constraint local_state_pkey primary key (queue_name, consumer_name),
    constraint local_state_queue_name_fkey foreign key (queue_name) references pgq_node.node_info (queue_name),
    constraint local_state_queue_name_provider_node_fkey foreign key (queue_name, provider_node)
        references pgq_node.node_location (queue_name, node_name)
) with (fillfactor = 50, autovacuum_vacuum_threshold = 200, autovacuum_vacuum_scale_factor = 0);

-- Nodes that read from this one. Each has two consumers on the local queue: its worker, and
-- ".<node>.watermark", which stays at the lowest tick its own subscribers may still need.
create table if not exists pgq_node.subscriber_info (
    queue_name      text not null,
    subscriber_node text not null,
    worker_name     text not null,
    watermark_name  text not null,
    constraint subscriber_info_pkey primary key (queue_name, subscriber_node),
    constraint subscriber_info_queue_name_fkey foreign key (queue_name)
        references pgq_node.node_info (queue_name),
    constraint subscriber_info_queue_name_subscriber_node_fkey foreign key (queue_name, subscriber_node)
        references pgq_node.node_location (queue_name, node_name),
    constraint subscriber_info_worker_name_fkey foreign key (worker_name) references pgq.consumer (co_name),
    constraint subscriber_info_watermark_name_fkey foreign key (watermark_name) references pgq.consumer (co_name)
);
