//! What is asked of servers.

/// Settings as they act, and as the configuration files would have them after a restart. The file that is read last
/// counts (`pg_file_settings`).
pub const SETTINGS: &str = "\
select s.name, s.setting, s.context = 'postmaster', s.source,
       (select f.setting from pg_catalog.pg_file_settings f where f.name = s.name order by f.seqno desc limit 1)
  from pg_catalog.pg_settings s where s.name = any($1)";

pub const SETTING: &str = "select pg_catalog.current_setting($1, true)";

pub const RELOAD: &str = "select pg_catalog.pg_reload_conf()";

pub const CLUSTER: &str = "\
select (select system_identifier from pg_catalog.pg_control_system()), pg_catalog.pg_is_in_recovery(),
       (select setting::int8 from pg_catalog.pg_settings where name = 'wal_segment_size')";

pub const SLOT: &str = "select from pg_catalog.pg_replication_slots where slot_name = $1";

pub const IN_RECOVERY: &str = "select pg_catalog.pg_is_in_recovery()";

/// A record of its own, so that there is something to switch away from.
pub const MARK: &str = "select pg_catalog.pg_create_restore_point('skytide')";

/// The segment that ends: the answer is the position behind the switch record, which is in that segment
/// (`XLogInsertRecord`).
pub const SWITCH: &str = "select pg_catalog.pg_walfile_name(pg_catalog.pg_switch_wal())";

pub const ARCHIVER: &str = "\
select last_archived_wal, last_failed_wal, extract(epoch from pg_catalog.now() - last_failed_time)::float8
  from pg_catalog.pg_stat_archiver";

/// Seconds since a file was archived, or since the server started; and the next transaction, which tells whether anything
/// was written.
pub const IDLE: &str = "\
select extract(epoch from pg_catalog.now()
               - greatest(last_archived_time, pg_catalog.pg_postmaster_start_time()))::float8,
       pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::text
  from pg_catalog.pg_stat_archiver";

pub const PAUSED: &str = "\
select case pg_catalog.pg_is_wal_replay_paused() when true then 'paused' else 'not paused' end,
       pg_catalog.pg_last_wal_replay_lsn()::text";

/// From 14 on: a pause that was asked for is told from one that has come.
pub const PAUSE_STATE: &str = "\
select pg_catalog.pg_get_wal_replay_pause_state(), pg_catalog.pg_last_wal_replay_lsn()::text";

pub const PAUSE: &str = "select pg_catalog.pg_wal_replay_pause()";
pub const RESUME: &str = "select pg_catalog.pg_wal_replay_resume()";

/// What a standby says of itself.
pub const STANDBY: &str = "\
select pg_catalog.pg_is_in_recovery(), pg_catalog.pg_last_wal_replay_lsn()::text,
       (select status from pg_catalog.pg_stat_wal_receiver), pg_catalog.current_setting('restore_command'),
       (select system_identifier from pg_catalog.pg_control_system()),
       (select setting from pg_catalog.pg_settings where name = 'primary_conninfo')";

pub const REPLAYED: &str = "select pg_catalog.pg_is_in_recovery(), pg_catalog.pg_last_wal_replay_lsn()::text";

/// And on which timeline, for those who may list `pg_wal`. The control file is behind; of the files of a segment a standby has the newest
/// timeline's as soon as it follows that.
pub const PLACE: &str = "\
with place as (
    select pg_catalog.pg_last_wal_replay_lsn() as lsn,
           pg_catalog.div(pg_catalog.pg_last_wal_replay_lsn() - '0/0'::pg_lsn, size) as number,
           pg_catalog.div(4294967296, size) as per_id
      from (select setting::numeric as size from pg_catalog.pg_settings where name = 'wal_segment_size') s)
select pg_catalog.pg_is_in_recovery(), lsn::text,
       greatest((select timeline_id from pg_catalog.pg_control_checkpoint()),
                (select min_recovery_end_timeline from pg_catalog.pg_control_recovery()),
                (select received_tli from pg_catalog.pg_stat_wal_receiver),
                (select max(('x' || left(name, 8))::bit(32)::int4) from pg_catalog.pg_ls_waldir()
                  where name ~ '^[0-9A-F]{24}$'
                    and substr(name, 9) = upper(lpad(to_hex(div(number, per_id)::int8), 8, '0')
                                                || lpad(to_hex(mod(number, per_id)::int8), 8, '0'))))
  from place";

/// Only tells the server to: its own waiting looks every 100 ms.
pub const PROMOTE: &str = "select pg_catalog.pg_promote(false)";

/// Takes a transaction id, which no standby can give.
pub const WRITE: &str = "\
select pg_catalog.txid_current(), pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn())";

/// Standbys that receive, and what each still lacks.
pub const CONNECTED: &str = "\
select application_name, state, sync_state,
       pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_flush_lsn(), flush_lsn)::int8
  from pg_catalog.pg_stat_replication
 where state <> 'backup' order by application_name";
