//! The console's SQL.

pub const CREATE_QUEUE: &str = "select pgq.create_queue($1)";
pub const DROP_QUEUE: &str = "select pgq.drop_queue($1, false)";
pub const SET_QUEUE_CONFIG: &str = "select pgq.set_queue_config($1, $2, $3)";
pub const REGISTER: &str = "select pgq.register_consumer($1, $2)";
pub const REGISTER_AT: &str = "select pgq.register_consumer_at($1, $2, $3)";
pub const UNREGISTER: &str = "select pgq.unregister_consumer($1, $2)";
pub const REGISTER_SUB: &str = "select pgq_coop.register_subconsumer($1, $2, $3)";
pub const UNREGISTER_SUB: &str = "select pgq_coop.unregister_subconsumer($1, $2, $3, $4)";
pub const PAUSE: &str = "select pgq.pause_consumer($1, $2)";
pub const RESUME: &str = "select pgq.resume_consumer($1, $2)";
pub const PURGE: &str = "select pgq.purge_consumer($1, $2)";
pub const SEEK: &str = "select pgq.seek_consumer($1, $2, $3::bigint)";
pub const SEEK_TIME: &str = "select pgq.seek_consumer($1, $2, $3::text::timestamptz)";

pub const ADD_TABLE: &str = "select * from londiste.local_add_table($1, $2, $3)";
pub const REMOVE_TABLE: &str = "select * from londiste.local_remove_table($1, $2)";
pub const ADD_SEQUENCE: &str = "select * from londiste.local_add_seq($1, $2)";
pub const REMOVE_SEQUENCE: &str = "select * from londiste.local_remove_seq($1, $2)";

pub const QUEUE_NAMES: &str = "select queue_name from pgq.queue order by queue_name";
pub const CONSUMERS_OF: &str = "select consumer_name from pgq.get_consumer_info($1) order by consumer_name";
/// Where a consumer is: the end of its open batch, else its last tick.
pub const POSITION: &str = "\
    select coalesce(next_tick, last_tick) from pgq.get_consumer_info($1, $2)";
pub const OPEN_BATCH: &str = "select current_batch from pgq.get_consumer_info($1, $2)";
pub const NODE_TYPE: &str = "select node_type from pgq_node.get_node_info($1) where ret_code < 400";
/// The original Londiste has triggers only, and no such function.
pub const KNOWS_CAPTURE: &str = "select to_regprocedure('londiste.get_capture(text)') is not null";
pub const CAPTURE: &str = "select londiste.get_capture($1)";
pub const NODE_LOCATION: &str = "\
    select node_location from pgq_node.node_location where queue_name = $1 and node_name = $2";
pub const DEST_TABLE: &str = "\
    select coalesce(dest_table, table_name) from londiste.table_info where queue_name = $1 and table_name = $2";
pub const PGQ_VERSION: &str = "\
    select current_setting('server_version'), to_regprocedure('pgq.version()') is not null";

/// Intervals as text, so that they look as in psql.
pub const SHOW_QUEUE: &str = "\
    select queue_name, queue_cur_table || '/' || queue_ntables as tables, \
           queue_ticker_max_count as max_count, queue_ticker_max_lag::text as max_lag, \
           queue_ticker_idle_period::text as idle_period, queue_ticker_paused as paused, \
           ticker_lag::text as ticker_lag, ev_per_sec, ev_new \
      from pgq.get_queue_info($1) \
     order by queue_name";

pub const SHOW_CONSUMER: &str = "\
    select queue_name, consumer_name, lag::text as lag, last_seen::text as last_seen, last_tick, \
           current_batch, next_tick, pending_events \
      from pgq.get_consumer_info($1, $2) \
     order by queue_name, consumer_name";

pub const SHOW_NODE: &str = "\
    select queue_name as queue, node_name as node, node_location as location, dead \
      from pgq_node.node_location \
     where queue_name = coalesce($1, queue_name) and node_name = coalesce($2, node_name) \
     order by queue_name, node_name";

pub const SHOW_BATCH: &str = "\
    select ev_id, ev_time::text as ev_time, ev_txid, ev_retry, ev_type, ev_data, ev_extra1, ev_extra2, \
           ev_extra3, ev_extra4 \
      from pgq.get_batch_events($1)";

pub const SHOW_BLOCKERS: &str = "\
    select queue_name, kind, who, pid, since::text as since, held_for::text as held_for, \
           overdue::text as overdue, detail \
      from pgq.get_rotation_blockers($1)";

pub const SHOW_DEAD_LETTERS: &str = "\
    select dl_id, queue_name, consumer_name, dead_since::text as dead_since, reason, ev_id, ev_retry, ev_type, \
           ev_data \
      from pgq.get_dead_letters($1)";

pub const LONDISTE_TABLES: &str = "\
    select table_name, merge_state, custom_snapshot, table_attrs, dest_table \
      from londiste.get_table_list($1) where local";

pub const LONDISTE_SEQUENCES: &str = "\
    select seq_name, last_value from londiste.get_seq_list($1) where local";

pub const LONDISTE_MISSING: &str = "\
    select case obj_kind when 'S' then 'sequence' else 'table' end as kind, obj_name as name \
      from londiste.local_show_missing($1) order by 1 desc, 2";

/// A table as the statements that would make it again: its sequences, columns, constraints, indexes,
/// triggers, its place among partitions, and its rights.
pub const TABLE_DDL: &str = include_str!("queries/table_ddl.sql");
pub const SEQUENCE_DDL: &str = include_str!("queries/sequence_ddl.sql");
