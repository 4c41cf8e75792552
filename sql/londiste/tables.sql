-- Schema londiste: which tables and sequences a queue carries, and how far each of them is.
--
-- Functions answer with ret_code and ret_note: 1xx and 2xx done, 3xx warning, go on and commit, from
-- 400 refused: the caller rolls back.
--
-- Events a root puts into the queue:
--   londiste.add-table, londiste.remove-table    data global table name
--   londiste.update-seq                          data value, extra1 sequence
--   londiste.remove-seq                          data sequence
--   EXECUTE                                      data SQL, extra1 file, extra2 attributes
--
-- States of a table (merge_state):
--   null            attached, nothing copied yet
--   in-copy         bulk copy runs
--   catching-up     copy done, its own replay runs
--   wanna-sync:T    the replay reached tick T and offers hand-over
--   do-sync:T       the main worker waits at tick T for the replay
--   ok              the main worker applies the table's changes

create schema if not exists londiste;
grant usage on schema londiste to public;

-- Tables of a queue.
--   nr               order of processing
--   table_name       global name: schema.table, unquoted
--   local            attached on this node
--   merge_state      see above
--   custom_snapshot  snapshot of the copy: changes visible in it are in the copy
--   dropped_ddl      indexes and constraints to restore after the copy
--   table_attrs      urlencoded dictionary
--   dest_table       this node's table, if it has another name
create table if not exists londiste.table_info (
    nr              serial  not null,
    queue_name      text    not null,
    table_name      text    not null,
    local           boolean not null default false,
    merge_state     text,
    custom_snapshot text,
    dropped_ddl     text,
    table_attrs     text,
    dest_table      text,
    constraint table_info_pkey primary key (queue_name, table_name),
    constraint table_info_queue_name_fkey foreign key (queue_name)
        references pgq_node.node_info (queue_name) on delete cascade,
    constraint table_info_check check (dropped_ddl is null or merge_state in ('in-copy', 'catching-up'))
) with (fillfactor = 50, autovacuum_vacuum_threshold = 200, autovacuum_vacuum_scale_factor = 0);

-- Sequences of a queue.
--   last_value   published; subscribers are always ahead of the root
create table if not exists londiste.seq_info (
    nr          serial  not null,
    queue_name  text    not null,
    seq_name    text    not null,
    local       boolean not null default false,
    last_value  bigint  not null,
    constraint seq_info_pkey primary key (queue_name, seq_name),
    constraint seq_info_queue_name_fkey foreign key (queue_name)
        references pgq_node.node_info (queue_name) on delete cascade
);

-- SQL files that were run. By file name alone: one file on two queues of a database runs once.
create table if not exists londiste.applied_execute (
    queue_name      text        not null,
    execute_file    text        not null,
    execute_time    timestamptz not null default now(),
    execute_sql     text        not null,
    execute_attrs   text,
    constraint applied_execute_pkey primary key (execute_file)
);

-- Foreign keys dropped for the time of a copy; of all queues.
create table if not exists londiste.pending_fkeys (
    from_table  text not null,
    to_table    text not null,
    fkey_name   text not null,
    fkey_def    text not null,
    constraint pending_fkeys_pkey primary key (from_table, fkey_name)
);

-- How a queue's table changes are captured (Skytide's addition). No row: from the WAL.
--   capture   wal: read by logical decoding; trigger: written as events by triggers
create table if not exists londiste.capture_info (
    queue_name  text not null,
    capture     text not null default 'wal',
    constraint capture_info_pkey primary key (queue_name),
    constraint capture_info_queue_name_fkey foreign key (queue_name)
        references pgq_node.node_info (queue_name) on delete cascade,
    constraint capture_info_check check (capture in ('wal', 'trigger'))
);
