//! The connection to the subscriber: settings, prepared statements, and a pipeline of what is in flight.

use std::collections::{HashMap, VecDeque};
use std::error::Error;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::pin::Pin;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::SinkExt;
use futures_util::future::{BoxFuture, FutureExt, MaybeDone, maybe_done};
use postgres_types::{IsNull, ToSql, Type, to_sql_checked};
use skytide_sql::conn::{self, ConnectString};
use skytide_sql::{Oid, TableName};
use tokio_postgres::{Client, Statement};

use super::outbox::{Op, Way, Work};
use super::shape::Shape;
use super::statement::{Action, finish_array};
use super::{ApplyError, ApplySettings, queries};

/// What may be on its way to the server at once.
const IN_FLIGHT_BYTES: usize = 8 << 20;
const IN_FLIGHT: usize = 64;
/// Statements kept prepared; beyond, all are dropped and made anew as needed.
const MOST_STATEMENTS: usize = 2_000;

/// Set so that each statement takes the rows one by one over the key's index: the planner sees arrays of
/// unknown size and could otherwise choose to scan the table.
const SETTINGS: &str = "
set client_encoding = 'UTF8'; set datestyle = 'ISO'; set intervalstyle = 'postgres';
set extra_float_digits = 3; set bytea_output = 'hex'; set standard_conforming_strings = on;
set statement_timeout = 0; set lock_timeout = 0; set idle_in_transaction_session_timeout = 0;
set default_transaction_isolation = 'read committed'; set default_transaction_read_only = off;
set row_security = off; set jit = off; set plan_cache_mode = force_generic_plan; set work_mem = '32MB';
set enable_seqscan = off; set enable_hashjoin = off; set enable_mergejoin = off;
set enable_bitmapscan = off; set enable_material = off";

pub(super) struct Session {
    client: Arc<conn::Session>,
    stages: HashMap<Vec<Oid>, Stage>,
    /// By form and way; with the staging type of arrays.
    statements: HashMap<(u64, Way), (Statement, Oid)>,
    next_stage: u64,
    in_flight: VecDeque<InFlight>,
    in_flight_bytes: usize,
    /// Tables that the transaction has written to.
    written: HashMap<Oid, Arc<Shape>>,
}

/// A connection on which triggers and foreign keys do not act, as for all replicated rows.
///
/// # Errors
/// No connection, or the role may not set `session_replication_role`.
pub async fn connect_subscriber(
    target: &ConnectString,
    application_name: &str,
) -> Result<conn::Session, ApplyError> {
    let client = conn::connect_to_write(target, application_name).await?;
    // A superuser's setting before 15, grantable from then on; londiste has a function for it.
    if client
        .batch_execute("set session_replication_role = replica")
        .await
        .is_err()
    {
        client
            .batch_execute("select londiste.set_session_replication_role('replica', false)")
            .await
            .map_err(ApplyError::ReplicaRole)?;
    }
    Ok(client)
}

/// The sessions that one applier has had: an advisory lock's key of its own.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line(i64);

impl Line {
    pub fn new() -> Line {
        let random = RandomState::new().build_hasher().finish();
        Line(random.cast_signed())
    }
}

/// A composite type in pg_temp.
#[derive(Clone, Debug)]
struct Stage {
    name: String,
    oid: Oid,
}

type Running = Pin<Box<MaybeDone<BoxFuture<'static, Result<u64, tokio_postgres::Error>>>>>;

struct InFlight {
    running: Running,
    bytes: usize,
    sent: Sent,
}

/// What was sent, to make sense of the answer.
#[derive(Debug)]
pub(super) enum Sent {
    Rows {
        shape: Arc<Shape>,
        action: Action,
        rows: u32,
    },
    Truncate(Arc<Shape>),
    Command(&'static str),
}

impl Sent {
    pub fn table(&self) -> Option<&TableName> {
        match self {
            Sent::Rows { shape, .. } | Sent::Truncate(shape) => Some(&shape.dest),
            Sent::Command(_) => None,
        }
    }

    fn failed(&self, error: tokio_postgres::Error) -> ApplyError {
        let doing = match self {
            Sent::Command(doing) => return ApplyError::Session { doing, error },
            Sent::Truncate(_) => "truncate",
            Sent::Rows { action, .. } => match action {
                Action::Delete => "delete from",
                Action::Rekey => "change keys of",
                Action::Update => "update",
                Action::Insert => "insert into",
            },
        };
        let table = self.table().expect("rows and truncates have a table").clone();
        ApplyError::Table { doing, table, error }
    }
}

impl Session {
    /// Connects and sets the session up. `line` is held for the session's life: a session before this
    /// one in the same line is ended first, as its COMMIT may still be on its way.
    pub async fn connect(
        target: &ConnectString,
        settings: &ApplySettings,
        line: Line,
    ) -> Result<Session, ApplyError> {
        let client = connect_subscriber(target, &settings.application_name).await?;
        let failed = |error| ApplyError::Session {
            doing: "set up the session",
            error,
        };
        client.batch_execute(SETTINGS).await.map_err(failed)?;
        client
            .execute(queries::EVICT_HOLDER, &[&line.0])
            .await
            .map_err(failed)?;
        client.execute(queries::HOLD, &[&line.0]).await.map_err(failed)?;
        let commit = if settings.synchronous_commit { "on" } else { "off" };
        let set = format!("set synchronous_commit = {commit}");
        client.batch_execute(&set).await.map_err(failed)?;
        Ok(Session {
            client: Arc::new(client),
            stages: HashMap::new(),
            statements: HashMap::new(),
            next_stage: 0,
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
            written: HashMap::new(),
        })
    }

    pub fn client(&self) -> &Client {
        &self.client
    }

    pub fn is_idle(&self) -> bool {
        self.in_flight.is_empty()
    }

    /// True if the pipeline takes more.
    pub fn has_room(&self) -> bool {
        self.in_flight.len() < IN_FLIGHT && self.in_flight_bytes < IN_FLIGHT_BYTES
    }

    /// True if the operation needs no other request before it. One that does must not be sent while
    /// others are in flight: a COPY among them would wait for its data behind it.
    pub fn is_ready_for(&self, op: &Op) -> bool {
        matches!(op, Op::Work(work) if self.statements.contains_key(&(work.form.id, work.way)))
    }

    /// Begins a transaction.
    pub async fn begin(&mut self) {
        self.written.clear();
        let begin = "begin; set constraints all deferred".to_owned();
        self.command("begin", begin).await;
    }

    /// A statement that fails if a table is not what its rows were made for.
    pub fn unaltered(&self) -> Option<String> {
        queries::unaltered(self.written.iter().map(|(oid, shape)| (*oid, &*shape.signature)))
    }

    /// Sends statements without rows.
    pub async fn command(&mut self, doing: &'static str, sql: String) {
        let client = self.client.clone();
        let run = async move { client.batch_execute(&sql).await.map(|()| 0) };
        self.start(run.boxed(), 0, Sent::Command(doing)).await;
    }

    /// Sends an operation; its answer comes out of [`Session::answer`].
    pub async fn send(&mut self, op: Op) -> Result<(), ApplyError> {
        match op {
            Op::Work(work) => self.send_work(work).await,
            Op::Truncate {
                tables,
                restart_identity,
            } => self.truncate(&tables, restart_identity).await,
        }
    }

    async fn send_work(&mut self, work: Work) -> Result<(), ApplyError> {
        let (statement, stage) = self.statement(&work).await?;
        let client = self.client.clone();
        let Work {
            form,
            rows,
            mut payload,
            way,
        } = work;
        let bytes = payload.len();
        let run = match way {
            Way::Array => {
                finish_array(&mut payload, stage, rows);
                async move { client.execute_raw(&statement, [RawArray(payload)]).await }.boxed()
            }
            Way::Copy(_) => async move {
                let sink = client.copy_in::<_, Bytes>(&statement).await?;
                let mut sink = std::pin::pin!(sink);
                sink.send(Bytes::from(payload)).await?;
                sink.finish().await
            }
            .boxed(),
        };
        self.written.insert(form.shape.table_oid, form.shape.clone());
        let sent = Sent::Rows {
            shape: form.shape.clone(),
            action: form.action,
            rows,
        };
        self.start(run, bytes, sent).await;
        Ok(())
    }

    /// Starts a request: its bytes go out in the order of the calls.
    async fn start(
        &mut self,
        run: BoxFuture<'static, Result<u64, tokio_postgres::Error>>,
        bytes: usize,
        sent: Sent,
    ) {
        let mut running: Running = Box::pin(maybe_done(run));
        let _ = futures_util::poll!(&mut running);
        self.in_flight_bytes += bytes;
        self.in_flight.push_back(InFlight { running, bytes, sent });
    }

    /// Waits for the oldest answer. Cancel-safe: the request stays until its answer is there.
    pub async fn answer(&mut self) -> Option<(Sent, Result<u64, ApplyError>)> {
        let first = self.in_flight.front_mut()?;
        first.running.as_mut().await;
        let InFlight {
            mut running,
            bytes,
            sent,
        } = self.in_flight.pop_front()?;
        self.in_flight_bytes -= bytes;
        let result = running.as_mut().take_output()?;
        let result = result.map_err(|error| sent.failed(error));
        Some((sent, result))
    }

    async fn statement(&mut self, work: &Work) -> Result<(Statement, Oid), ApplyError> {
        if let Some(known) = self.statements.get(&(work.form.id, work.way)) {
            return Ok(known.clone());
        }
        if self.statements.len() >= MOST_STATEMENTS {
            self.statements.clear();
        }
        let form = &work.form;
        let failed = |error| ApplyError::Table {
            doing: "prepare a statement for",
            table: form.shape.dest.clone(),
            error,
        };
        let prepared = match work.way {
            Way::Copy(format) => {
                let statement = self
                    .client
                    .prepare(&form.copy_sql(format))
                    .await
                    .map_err(failed)?;
                (statement, Oid::new(0))
            }
            Way::Array => {
                let stage = self.stage(&form.stage).await.map_err(failed)?;
                let sql = form.sql(&stage.name);
                let statement = self.client.prepare(&sql).await.map_err(failed)?;
                (statement, stage.oid)
            }
        };
        self.statements.insert((form.id, work.way), prepared.clone());
        Ok(prepared)
    }

    /// The staging type with these columns.
    async fn stage(&mut self, types: &[Oid]) -> Result<Stage, tokio_postgres::Error> {
        if let Some(stage) = self.stages.get(types) {
            return Ok(stage.clone());
        }
        let oids: Vec<u32> = types.iter().map(|oid| oid.get()).collect();
        let names = self
            .client
            .query_one(
                "select array_agg(pg_catalog.format_type(t, -1) order by n) \
                 from unnest($1::oid[]) with ordinality as u(t, n)",
                &[&oids],
            )
            .await?;
        let names: Vec<String> = names.get(0);
        let columns: Vec<String> = names
            .iter()
            .enumerate()
            .map(|(n, name)| format!("c{n} {name}"))
            .collect();
        self.next_stage += 1;
        let name = format!("pg_temp.skytide_stage_{}", self.next_stage);
        let create = format!("create type {name} as ({})", columns.join(", "));
        self.client.batch_execute(&create).await?;
        let row = self
            .client
            .query_one("select $1::text::regtype::oid", &[&name])
            .await?;
        let stage = Stage {
            name,
            oid: Oid::new(row.get(0)),
        };
        self.stages.insert(types.to_vec(), stage.clone());
        Ok(stage)
    }

    async fn truncate(&mut self, tables: &[Arc<Shape>], restart_identity: bool) -> Result<(), ApplyError> {
        let oids: Vec<u32> = tables.iter().map(|shape| shape.table_oid.get()).collect();
        let referred: bool = self
            .client
            .query_one(queries::REFERRED_FROM_OUTSIDE, &[&oids])
            .await
            .map_err(|error| ApplyError::Session {
                doing: "look up foreign keys",
                error,
            })?
            .get(0);
        let names: Vec<String> = tables.iter().map(|shape| shape.only()).collect();
        // CASCADE would empty tables that are not ours to touch; the provider names each table it emptied.
        let sql = if referred {
            let deletes: Vec<String> = names.iter().map(|name| format!("delete from {name}")).collect();
            deletes.join("; ")
        } else {
            let restart = if restart_identity { " restart identity" } else { "" };
            format!("truncate {}{restart}", names.join(", "))
        };
        let client = self.client.clone();
        let run = async move { client.batch_execute(&sql).await.map(|()| 0) };
        self.start(run.boxed(), 0, Sent::Truncate(tables[0].clone()))
            .await;
        Ok(())
    }
}

/// An array that is in its binary form already.
#[derive(Debug)]
struct RawArray(Vec<u8>);

impl ToSql for RawArray {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        out.extend_from_slice(&self.0);
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}
