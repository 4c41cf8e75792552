//! A server of the cluster, asked and told by SQL.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use skytide_sql::Lsn;
use skytide_sql::conn::{ConnectError, ConnectString, Session, connect};
use skytide_sql::ident::quote_literal;

use super::{NodeSettings, PromoteError};
use crate::format::version::Major;
use crate::walsender::Timestamp;
use crate::{HistoryFile, SegmentName, SegmentNo, SegmentSize, TimelineId};

const APPLICATION: &str = "skytide promote";

/// All at once, so that the answers belong together. A view's subqueries give NULL for no row.
const ASK: &str = "\
select pg_is_in_recovery(),
       (select system_identifier from pg_control_system()),
       current_setting('server_version_num')::int,
       (select bytes_per_wal_segment from pg_control_init()),
       greatest((select timeline_id from pg_control_checkpoint()),
                (select min_recovery_end_timeline from pg_control_recovery()),
                (select received_tli from pg_stat_wal_receiver)),
       case when pg_is_in_recovery() then pg_last_wal_replay_lsn() else pg_current_wal_flush_lsn() end::text,
       case when pg_is_in_recovery() then pg_is_wal_replay_paused() else false end,
       (select setting::bigint from pg_settings where name = 'recovery_min_apply_delay'),
       (extract(epoch from pg_last_xact_replay_timestamp()) * 1000000)::bigint,
       current_setting('restore_command'),
       current_setting('primary_conninfo'),
       current_setting('primary_slot_name'),
       (select setting from pg_config() where name = 'BINDIR'),
       (select status from pg_stat_wal_receiver),
       (select sender_host from pg_stat_wal_receiver),
       (select sender_port from pg_stat_wal_receiver),
       current_setting('synchronous_standby_names'),
       case when pg_is_in_recovery() then null
            else left(pg_walfile_name(pg_current_wal_insert_lsn()), 8) end";

const PROMOTES_AT: &str = "\
select string_agg(name || ' = ' || setting, ', ') from pg_settings
 where name in ('recovery_target', 'recovery_target_name', 'recovery_target_time', 'recovery_target_xid',
                'recovery_target_lsn')
   and setting <> '' and current_setting('recovery_target_action') = 'promote'";

/// Of the files of a segment the newest timeline's: a standby has that as soon as it follows the timeline.
const NEWEST_FILE: &str = "\
select max(name) from pg_ls_waldir() where name ~ '^[0-9A-F]{24}$' and substr(name, 9) = $1";

/// What a server says of itself.
#[derive(Clone)]
pub(super) struct Answer {
    pub in_recovery: bool,
    pub system_id: u64,
    /// As `server_version_num`.
    pub version: u32,
    pub segment_size: SegmentSize,
    pub timeline: TimelineId,
    /// Replayed by a standby, flushed by a primary.
    pub lsn: Lsn,
    pub paused: bool,
    pub apply_delay: Duration,
    /// The primary's clock when the last transaction ended that was replayed.
    pub last_end: Option<Timestamp>,
    pub restore_command: String,
    /// May hold a password.
    pub conninfo: String,
    pub slot: String,
    pub bin_dir: PathBuf,
    /// Where WAL comes from, if a walreceiver runs.
    pub receives_from: Option<Sender>,
    pub synchronous_standby_names: String,
}

/// The server at the other end of a walreceiver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sender {
    /// It has a connection, and not only tries to get one.
    pub streams: bool,
    pub host: String,
    pub port: i32,
}

/// A node that answers.
pub(super) struct Node {
    pub settings: NodeSettings,
    session: Session,
}

impl Node {
    /// An error of the network or of the server is not one of the promotion: the node is silent then.
    pub async fn reach(settings: &NodeSettings, limit: Duration) -> Result<Arc<Node>, PromoteError> {
        let refused = |source| PromoteError::Connect {
            node: settings.name.clone(),
            source: Box::new(source),
        };
        let connected = tokio::time::timeout(limit, connect(&settings.db, APPLICATION)).await;
        let session = match connected {
            Ok(session) => session.map_err(refused)?,
            Err(_) => {
                return Err(refused(match settings.db.hosts().first() {
                    Some(host) => ConnectError::TimedOut {
                        host: host.clone(),
                        limit,
                    },
                    None => ConnectError::NoHosts,
                }));
            }
        };
        Ok(Arc::new(Node {
            settings: settings.clone(),
            session,
        }))
    }

    pub fn name(&self) -> &str {
        &self.settings.name
    }

    fn failed(&self, action: &'static str) -> impl FnOnce(tokio_postgres::Error) -> PromoteError + '_ {
        move |source| PromoteError::Sql {
            node: self.settings.name.clone(),
            action,
            source,
        }
    }

    fn nonsense(&self, what: &'static str) -> PromoteError {
        PromoteError::Answer {
            node: self.settings.name.clone(),
            what,
        }
    }

    pub async fn ask(&self) -> Result<Answer, PromoteError> {
        let row = self.session.query_one(ASK, &[]).await;
        let row = row.map_err(self.failed("say how it is"))?;
        let text = |column: usize| row.get::<_, Option<String>>(column);
        let lsn = match text(5) {
            Some(lsn) => lsn.parse().map_err(|_| self.nonsense("a WAL position"))?,
            None => Lsn::INVALID,
        };
        let number = |column: usize| u32::try_from(row.get::<_, i32>(column)).unwrap_or(0);
        let segment_size =
            SegmentSize::new(number(3)).ok_or_else(|| self.nonsense("the size of a segment"))?;
        let in_recovery: bool = row.get(0);
        let timeline = match text(17) {
            Some(hex) => u32::from_str_radix(&hex, 16).ok().and_then(TimelineId::new),
            None => TimelineId::new(number(4)).max(self.timeline_at(lsn, segment_size).await?),
        };
        let delay = row.get::<_, Option<i64>>(7).unwrap_or(0);
        Ok(Answer {
            in_recovery,
            system_id: row.get::<_, i64>(1).cast_unsigned(),
            version: number(2),
            segment_size,
            timeline: timeline.ok_or_else(|| self.nonsense("a timeline"))?,
            lsn,
            paused: row.get(6),
            apply_delay: Duration::from_millis(u64::try_from(delay).unwrap_or(0)),
            last_end: row.get::<_, Option<i64>>(8).map(from_unix_micros),
            restore_command: text(9).unwrap_or_default(),
            conninfo: text(10).unwrap_or_default(),
            slot: text(11).unwrap_or_default(),
            bin_dir: PathBuf::from(text(12).unwrap_or_default()),
            receives_from: text(13).map(|status| Sender {
                streams: status == "streaming",
                host: text(14).unwrap_or_default(),
                port: row.get::<_, Option<i32>>(15).unwrap_or(0),
            }),
            synchronous_standby_names: text(16).unwrap_or_default(),
        })
    }

    async fn timeline_at(&self, lsn: Lsn, size: SegmentSize) -> Result<Option<TimelineId>, PromoteError> {
        let root = TimelineId::new(1);
        let name = root.and_then(|root| SegmentName::new(root, SegmentNo::holding(lsn, size), size));
        let Some(name) = name else { return Ok(None) };
        let name = name.to_string();
        let place = name.get(8..).unwrap_or_default();
        let row = self.session.query_one(NEWEST_FILE, &[&place]).await;
        let row = row.map_err(self.failed("list its pg_wal"))?;
        let newest: Option<String> = row.get(0);
        let digits = newest.as_deref().and_then(|name| name.get(..8));
        Ok(digits
            .and_then(|digits| u32::from_str_radix(digits, 16).ok())
            .and_then(TimelineId::new))
    }

    /// How one of its timelines came to be.
    pub async fn history(&self, timeline: TimelineId) -> Result<HistoryFile, PromoteError> {
        if timeline.as_u32() == 1 {
            return Ok(HistoryFile::root(timeline));
        }
        let path = format!("pg_wal/{:08X}.history", timeline.as_u32());
        let sql = "select pg_read_file($1, 0, 1048576, true)";
        let read = self.session.query_one(sql, &[&path]).await;
        let text: Option<String> = read.map_err(self.failed("read its history"))?.get(0);
        let text = text.ok_or_else(|| PromoteError::NoHistory {
            node: self.settings.name.clone(),
            timeline,
        })?;
        HistoryFile::parse(timeline, &text).map_err(|source| PromoteError::History {
            node: self.settings.name.clone(),
            source,
        })
    }

    /// A part of a file in `pg_wal`; empty if there is no such file.
    pub async fn read_wal(&self, name: SegmentName, offset: u32, most: u64) -> Result<Vec<u8>, PromoteError> {
        let path = format!("pg_wal/{name}");
        let (offset, most) = (i64::from(offset), i64::try_from(most).unwrap_or(i64::MAX));
        let sql = "select pg_read_binary_file($1, $2, $3, true)";
        let row = self.session.query_one(sql, &[&path, &offset, &most]).await;
        let row = row.map_err(self.failed("read its WAL"))?;
        Ok(row.get::<_, Option<Vec<u8>>>(0).unwrap_or_default())
    }

    /// ALTER SYSTEM; nothing takes effect before [`Node::reload`].
    pub async fn set(&self, setting: &'static str, value: Option<&str>) -> Result<(), PromoteError> {
        let sql = match value {
            Some(value) => format!("alter system set {setting} = {}", quote_literal(value)),
            None => format!("alter system reset {setting}"),
        };
        let done = self.session.batch_execute(&sql).await;
        done.map_err(self.failed("take a setting"))
    }

    /// The value that ALTER SYSTEM gave a setting before; `None` if it did not.
    pub async fn set_before(&self, setting: &'static str) -> Result<Option<String>, PromoteError> {
        let sql = "select setting from pg_file_settings where name = $1 and sourcefile like '%/postgresql.auto.conf'";
        let row = self.session.query_opt(sql, &[&setting]).await;
        let row = row.map_err(self.failed("show its settings"))?;
        Ok(row.and_then(|row| row.get(0)))
    }

    /// The server reads its configuration again, and a standby that waits before it looks for WAL again looks at once.
    pub async fn reload(&self) -> Result<(), PromoteError> {
        let done = self.session.batch_execute("select pg_reload_conf()").await;
        done.map_err(self.failed("read its configuration"))
    }

    pub async fn resume_replay(&self) -> Result<(), PromoteError> {
        let done = self.session.batch_execute("select pg_wal_replay_resume()").await;
        done.map_err(self.failed("go on with replay"))
    }

    pub async fn replayed(&self) -> Result<Lsn, PromoteError> {
        let row = self
            .session
            .query_one("select pg_last_wal_replay_lsn()::text", &[])
            .await;
        let text: Option<String> = row.map_err(self.failed("say what it has replayed"))?.get(0);
        let lsn = text.map(|text| text.parse()).transpose();
        Ok(lsn
            .map_err(|_| self.nonsense("a WAL position"))?
            .unwrap_or(Lsn::INVALID))
    }

    pub async fn in_recovery(&self) -> Result<bool, PromoteError> {
        let row = self.session.query_one("select pg_is_in_recovery()", &[]).await;
        Ok(row.map_err(self.failed("say whether it is in recovery"))?.get(0))
    }

    /// The setting by which its recovery ends some day, and it promotes itself.
    pub async fn promotes_at(&self) -> Result<Option<String>, PromoteError> {
        let row = self.session.query_one(PROMOTES_AT, &[]).await;
        Ok(row.map_err(self.failed("show its settings"))?.get(0))
    }

    /// Asks for promotion and does not wait for it.
    pub async fn promote(&self) -> Result<(), PromoteError> {
        let row = self.session.query_one("select pg_promote(false)", &[]).await;
        let asked: bool = row.map_err(self.failed("promote itself"))?.get(0);
        match asked {
            true => Ok(()),
            false => Err(self.nonsense("it cannot be told to promote")),
        }
    }

    /// Commits a transaction that leaves a message in the WAL and nothing else, on this server's own disk.
    pub async fn write(&self) -> Result<(), PromoteError> {
        // Who waits for a synchronous standby here is another question.
        let sql = "set synchronous_commit = local; \
                   select pg_logical_emit_message(true, 'skytide', 'promoted')";
        let done = self.session.batch_execute(sql).await;
        done.map_err(self.failed("take a write"))
    }

    pub async fn checkpoint(&self) -> Result<(), PromoteError> {
        let done = self.session.batch_execute("checkpoint").await;
        done.map_err(self.failed("make a checkpoint"))
    }

    pub async fn make_slot(&self, slot: &str) -> Result<(), PromoteError> {
        let sql = "select pg_create_physical_replication_slot($1, true) \
                   where not exists (select from pg_replication_slots where slot_name = $1)";
        let done = self.session.query_opt(sql, &[&slot]).await;
        done.map_err(self.failed("make a slot")).map(drop)
    }

    pub async fn drop_slot(&self, slot: &str) -> Result<(), PromoteError> {
        let sql = "select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = $1";
        let done = self.session.query_opt(sql, &[&slot]).await;
        done.map_err(self.failed("drop a slot")).map(drop)
    }

    /// Its physical slots that nobody uses.
    pub async fn idle_slots(&self) -> Result<Vec<String>, PromoteError> {
        let sql = "select slot_name::text from pg_replication_slots \
                   where slot_type = 'physical' and not active and not temporary order by slot_name";
        let rows = self.session.query(sql, &[]).await;
        let rows = rows.map_err(self.failed("show its slots"))?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// Streams this timeline.
    pub async fn streams(&self, timeline: TimelineId) -> Result<bool, PromoteError> {
        let sql = "select status = 'streaming' and received_tli = $1 from pg_stat_wal_receiver";
        let timeline = i32::try_from(timeline.as_u32()).unwrap_or(i32::MAX);
        let row = self.session.query_opt(sql, &[&timeline]).await;
        let row = row.map_err(self.failed("say what it receives"))?;
        Ok(row.and_then(|row| row.get(0)).unwrap_or(false))
    }

    /// Standbys that wait for no WAL, and those that commits may wait for.
    pub async fn synchronous_standbys(&self) -> Result<i64, PromoteError> {
        let sql = "select count(*) from pg_stat_replication where sync_state in ('sync', 'quorum')";
        let row = self.session.query_one(sql, &[]).await;
        Ok(row.map_err(self.failed("show its standbys"))?.get(0))
    }
}

/// The major of a `server_version_num`, if this program can read its WAL.
pub(super) fn major_of(version: u32) -> Option<Major> {
    let majors = [
        Major::V13,
        Major::V14,
        Major::V15,
        Major::V16,
        Major::V17,
        Major::V18,
    ];
    majors
        .into_iter()
        .find(|major| u32::from(major.number()) == version / 10_000)
}

fn from_unix_micros(micros: i64) -> Timestamp {
    Timestamp::from_micros(micros.saturating_sub(946_684_800_000_000))
}

/// How others reach the node for replication, in the name that `former` gives its standby. Holds passwords.
pub(super) fn conninfo_of(node: &NodeSettings, former: &str) -> Result<ConnectString, PromoteError> {
    let wrong = |source| PromoteError::Conninfo {
        node: node.name.clone(),
        source,
    };
    let base = match &node.follow {
        Some(follow) => follow.clone(),
        None => node.db.with(&[("dbname", "")]).map_err(wrong)?,
    };
    // Its name may be one of synchronous_standby_names.
    let former = ConnectString::parse(former).ok();
    let name = former.as_ref().and_then(ConnectString::application_name);
    match (base.application_name(), name) {
        (None, Some(name)) => base.with(&[("application_name", name)]).map_err(wrong),
        _ => Ok(base),
    }
}
