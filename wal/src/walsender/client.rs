//! Commands on a replication connection that is not streaming.

use postgres_protocol::message::frontend;
use skytide_sql::conn::{ConnectError, ConnectString, Host, TargetSession, after_refusal};
use skytide_sql::transport::{Dialer, Link, Transport, within};
use skytide_sql::{Lsn, SlotName};

use super::command::{self, LogicalSlot, SlotLifetime, WalReservation};
use super::error::WalsenderError;
use super::message::{Backend, Columns};
use super::startup::{ServerParameters, log_in};
use super::stream::CopyBoth;
use super::wire::Wire;
use crate::timeline::TimelineId;

/// What kind of walsender to ask for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Bound to a database: replication commands and, by the simple protocol, SQL.
    Logical,
    /// The whole cluster's WAL; no SQL.
    Physical,
}

/// A replication connection, ready for a command. Streaming turns it into a `CopyBoth` and back.
#[derive(Debug)]
pub struct Client {
    pub(super) wire: Wire,
    pub(super) server: ServerParameters,
    pub(super) host: Host,
    /// A command was sent and its answer not read to the end.
    busy: bool,
    has_streamed_changes: bool,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IdentifySystem {
    pub system_id: u64,
    pub timeline: TimelineId,
    pub flush_lsn: Lsn,
    /// `None` on a physical connection.
    pub dbname: Option<String>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CreatedSlot {
    pub name: String,
    /// Logical: everything that commits after this is streamed. Physical: what is reserved, or 0/0.
    pub consistent_point: Lsn,
    /// For `SET TRANSACTION SNAPSHOT`, until this connection's next command.
    pub snapshot_name: Option<String>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SlotPosition {
    pub restart_lsn: Option<Lsn>,
    pub restart_timeline: Option<TimelineId>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TimelineHistory {
    pub file_name: String,
    pub content: Vec<u8>,
}

/// Where a physical stream goes on after the timeline it followed has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NextTimeline {
    pub timeline: TimelineId,
    pub start_lsn: Lsn,
}

/// One row of text columns; `None` is null.
type Row = Vec<Option<String>>;

impl Client {
    /// Opens a replication connection, by the same rules as `skytide_sql::conn::connect`.
    pub async fn connect(
        target: &ConnectString,
        mode: Mode,
        application_name: &str,
    ) -> Result<Client, WalsenderError> {
        let mut dialer = Dialer::new(target)?;
        loop {
            let Link { transport, host } = dialer.dial().await?;
            let login = Client::log_in(transport, &host, target, mode, application_name);
            let outcome = match target.connect_timeout() {
                Some(limit) => within(limit, &host, login).await,
                None => login.await,
            };
            let error = match outcome {
                Ok(client) => return Ok(client),
                Err(WalsenderError::Connect(error)) => error,
                Err(error) => ConnectError::Refused {
                    host,
                    code: error.server_error().map(|error| error.code.clone()),
                    fault: error.fault(),
                    source: error.into(),
                },
            };
            let then = after_refusal(&error);
            dialer.refused(error, then)?;
        }
    }

    async fn log_in(
        transport: Transport,
        host: &Host,
        target: &ConnectString,
        mode: Mode,
        application_name: &str,
    ) -> Result<Client, WalsenderError> {
        let mut wire = Wire::new(transport);
        let server = log_in(&mut wire, target, host, mode, application_name).await?;
        let mut client = Client {
            wire,
            server,
            host: host.clone(),
            busy: false,
            has_streamed_changes: false,
        };
        if target.target_session() != TargetSession::Any && client.is_read_only().await? {
            let wanted = "a primary (target_session_attrs)";
            return Err(ConnectError::WrongSession {
                host: host.clone(),
                wanted,
            }
            .into());
        }
        Ok(client)
    }

    pub(crate) async fn is_read_only(&mut self) -> Result<bool, WalsenderError> {
        // Servers from 14 on report it by themselves.
        if let Some(standby) = self.server.get("in_hot_standby") {
            return Ok(standby == "on");
        }
        Ok(self.show("transaction_read_only").await? == "on")
    }

    pub fn server_version_num(&self) -> u32 {
        self.server.version_num()
    }

    /// What the server reported about itself.
    pub fn server(&self) -> &ServerParameters {
        &self.server
    }

    /// The host that answered.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Runs SQL (logical connections) or a replication command that returns rows. Of several statements
    /// the rows come one after the other.
    pub async fn simple_query(&mut self, text: &str) -> Result<Vec<Vec<Option<String>>>, WalsenderError> {
        self.send(text).await?;
        let (mut rows, mut refusal) = (Vec::new(), None);
        loop {
            match self.wire.receive().await? {
                (_, Backend::DataRow(columns)) => rows.push(owned(columns)),
                (_, Backend::Error(error)) => refusal = Some(error),
                (_, Backend::ReadyForQuery) => break,
                (_, Backend::ParameterStatus { name, value }) => self.server.set(name, value),
                (_, Backend::Notice(notice)) => tracing::debug!(%notice, "from the server"),
                (_, Backend::RowDescription | Backend::CommandComplete)
                | (_, Backend::EmptyQuery | Backend::Notification) => {}
                (tag, _) => {
                    return Err(WalsenderError::Unexpected {
                        tag,
                        during: "a simple query",
                    });
                }
            }
        }
        self.busy = false;
        refusal.map_or(Ok(rows), |error| Err(error.into()))
    }

    pub async fn identify_system(&mut self) -> Result<IdentifySystem, WalsenderError> {
        let row = self.one_row("IDENTIFY_SYSTEM", command::IDENTIFY_SYSTEM).await?;
        Ok(IdentifySystem {
            system_id: row.parse(0, "system identifier")?,
            timeline: row.parse(1, "timeline")?,
            flush_lsn: row.parse(2, "WAL position")?,
            dbname: row.text(3).map(str::to_owned),
        })
    }

    pub async fn create_logical_slot(
        &mut self,
        slot: &LogicalSlot<'_>,
    ) -> Result<CreatedSlot, WalsenderError> {
        let text = command::create_logical_slot(slot, self.server_version_num())?;
        self.create_slot(&text).await
    }

    pub async fn create_physical_slot(
        &mut self,
        name: &SlotName,
        lifetime: SlotLifetime,
        reservation: WalReservation,
    ) -> Result<CreatedSlot, WalsenderError> {
        let text = command::create_physical_slot(name, lifetime, reservation, self.server_version_num());
        self.create_slot(&text).await
    }

    async fn create_slot(&mut self, text: &str) -> Result<CreatedSlot, WalsenderError> {
        let row = self.one_row("CREATE_REPLICATION_SLOT", text).await?;
        Ok(CreatedSlot {
            name: row.parse(0, "slot name")?,
            consistent_point: row.parse(1, "consistent point")?,
            snapshot_name: row.text(2).map(str::to_owned),
        })
    }

    /// Waits for a reader of the slot to go away.
    pub async fn drop_slot(&mut self, name: &SlotName) -> Result<(), WalsenderError> {
        self.simple_query(&command::drop_slot(name)).await.map(drop)
    }

    /// Of a physical slot; `None` if there is no such slot. PostgreSQL 15 and later.
    pub async fn read_slot(&mut self, name: &SlotName) -> Result<Option<SlotPosition>, WalsenderError> {
        let text = command::read_slot(name, self.server_version_num())?;
        let row = self.one_row("READ_REPLICATION_SLOT", &text).await?;
        if row.text(0).is_none() {
            return Ok(None);
        }
        Ok(Some(SlotPosition {
            restart_lsn: row.parse_nullable(1, "restart position")?,
            restart_timeline: row.parse_nullable(2, "restart timeline")?,
        }))
    }

    /// A setting's value, as `SHOW` prints it: `wal_segment_size`, for example.
    pub async fn show(&mut self, setting: &str) -> Result<String, WalsenderError> {
        self.one_row("SHOW", &command::show(setting))
            .await?
            .parse(0, "setting")
    }

    /// The history file of a timeline after the first.
    pub async fn timeline_history(
        &mut self,
        timeline: TimelineId,
    ) -> Result<TimelineHistory, WalsenderError> {
        let row = self
            .one_row("TIMELINE_HISTORY", &command::timeline_history(timeline))
            .await?;
        Ok(TimelineHistory {
            file_name: row.parse(0, "file name")?,
            content: row.text(1).unwrap_or_default().as_bytes().to_vec(),
        })
    }

    /// Starts decoding at `from` or the slot's confirmed position, whichever is later. Options are the
    /// output plugin's. Once per connection: a walsender never forgets that a logical stream was ended, and
    /// would end the next one before its first message (StartLogicalReplication, PostgreSQL 15).
    pub async fn start_logical(
        mut self,
        slot: &SlotName,
        from: Lsn,
        options: &[(&str, &str)],
    ) -> Result<CopyBoth, WalsenderError> {
        if std::mem::replace(&mut self.has_streamed_changes, true) {
            return Err(WalsenderError::StreamedBefore);
        }
        self.start(&command::start_logical(slot, from, options)).await
    }

    /// Starts streaming WAL at `from`, which should be the start of a segment.
    pub async fn start_physical(
        self,
        slot: Option<&SlotName>,
        from: Lsn,
        timeline: TimelineId,
    ) -> Result<CopyBoth, WalsenderError> {
        self.start(&command::start_physical(slot, from, timeline)).await
    }

    async fn start(mut self, text: &str) -> Result<CopyBoth, WalsenderError> {
        self.send(text).await?;
        loop {
            match self.wire.receive().await? {
                (_, Backend::CopyBoth) => return Ok(CopyBoth::new(self)),
                (_, Backend::Error(error)) => return Err(error.into()),
                (_, Backend::Notice(notice)) => tracing::debug!(%notice, "from the server"),
                (_, Backend::ParameterStatus { name, value }) => self.server.set(name, value),
                (tag, _) => {
                    return Err(WalsenderError::Unexpected {
                        tag,
                        during: "START_REPLICATION",
                    });
                }
            }
        }
    }

    pub(super) async fn send(&mut self, text: &str) -> Result<(), WalsenderError> {
        if std::mem::replace(&mut self.busy, true) {
            return Err(WalsenderError::Abandoned);
        }
        frontend::query(text, &mut self.wire.out)?;
        self.wire.flush().await
    }

    /// The end of a stream: what is left of the answer to START_REPLICATION.
    pub(super) async fn end_of_stream(mut self) -> Result<(Client, Option<NextTimeline>), WalsenderError> {
        let (mut next, mut refusal) = (None, None);
        loop {
            match self.wire.receive().await? {
                (_, Backend::DataRow(columns)) => {
                    let row = OneRow {
                        command: "START_REPLICATION",
                        row: owned(columns),
                    };
                    next = Some(NextTimeline {
                        timeline: row.parse(0, "next timeline")?,
                        start_lsn: row.parse(1, "its start")?,
                    });
                }
                (_, Backend::Error(error)) => refusal = Some(error),
                (_, Backend::ReadyForQuery) => break,
                (_, Backend::ParameterStatus { name, value }) => self.server.set(name, value),
                (_, Backend::RowDescription | Backend::CommandComplete | Backend::Notice(_)) => {}
                (tag, _) => {
                    return Err(WalsenderError::Unexpected {
                        tag,
                        during: "the end of a stream",
                    });
                }
            }
        }
        self.busy = false;
        refusal.map_or(Ok((self, next)), |error| Err(error.into()))
    }

    /// Reads an answer of which nothing more is wanted to its end.
    pub(super) async fn rest_of_answer(&mut self, during: &'static str) -> Result<(), WalsenderError> {
        let mut refusal = None;
        loop {
            match self.wire.receive().await? {
                (_, Backend::Error(error)) => refusal = Some(error),
                (_, Backend::ReadyForQuery) => break,
                (_, Backend::ParameterStatus { name, value }) => self.server.set(name, value),
                (_, Backend::CommandComplete | Backend::Notice(_) | Backend::Notification) => {}
                (tag, _) => return Err(WalsenderError::Unexpected { tag, during }),
            }
        }
        self.busy = false;
        refusal.map_or(Ok(()), |error| Err(error.into()))
    }

    async fn one_row(&mut self, command: &'static str, text: &str) -> Result<OneRow, WalsenderError> {
        let what = "one row was expected";
        let mut rows = self.simple_query(text).await?;
        match (rows.pop(), rows.is_empty()) {
            (Some(row), true) => Ok(OneRow { command, row }),
            _ => Err(WalsenderError::Answer { command, what }),
        }
    }
}

impl Drop for Client {
    /// Says goodbye, so that the server logs no lost connection.
    fn drop(&mut self) {
        if !self.busy {
            frontend::terminate(&mut self.wire.out);
            self.wire.flush_now_or_never();
        }
    }
}

fn owned(columns: Columns<'_>) -> Row {
    columns
        .map(|value| value.map(|value| String::from_utf8_lossy(value).into_owned()))
        .collect()
}

/// The answer to a command, and that command's name for error texts.
struct OneRow {
    command: &'static str,
    row: Row,
}

impl OneRow {
    fn text(&self, column: usize) -> Option<&str> {
        self.row.get(column)?.as_deref()
    }

    fn parse<T: std::str::FromStr>(&self, column: usize, what: &'static str) -> Result<T, WalsenderError> {
        self.parse_nullable(column, what)?.ok_or(self.wrong(what))
    }

    fn parse_nullable<T: std::str::FromStr>(
        &self,
        column: usize,
        what: &'static str,
    ) -> Result<Option<T>, WalsenderError> {
        let parsed = self.text(column).map(str::parse);
        parsed.transpose().map_err(|_| self.wrong(what))
    }

    fn wrong(&self, what: &'static str) -> WalsenderError {
        WalsenderError::Answer {
            command: self.command,
            what,
        }
    }
}
