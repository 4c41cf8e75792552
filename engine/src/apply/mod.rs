//! Apply: a batch becomes a few large statements in one transaction on the subscriber, together with
//! the position, so that each batch is applied exactly once whatever dies when.
//!
//! Two sides work at once. The planner (`plan`), on a thread of its own, drains the batch, keeps the net
//! effect of a chunk of it (`net`), encodes that (`statement`, `load`) and hands it over (`outbox`). The
//! session (`session`) has the connection and keeps several statements in flight. `shape` says how a
//! provider's table fits the subscriber's. A conflict that only the order of a set-based statement made is
//! met by applying the batch again with that table in exact order (`exact`).

mod error;
mod exact;
mod load;
mod net;
mod outbox;
mod patch;
mod plan;
mod queries;
mod session;
mod shape;
mod statement;
mod types;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use skytide_sql::conn::ConnectString;
use skytide_sql::{Oid, Snapshot, TableName, Xid};
use tokio::sync::mpsc;

use crate::change::{Relation, RelationId, RowChange};
pub use error::ApplyError;
use exact::{ExactTables, may_be_new_shape, may_be_order};
use outbox::Message;
use plan::{Planned, Planner};
pub use session::connect_subscriber;
use session::{Line, Sent, Session};
use shape::Shape;
use statement::Action;
pub use types::ProviderTypes;

/// Where a batch's changes come from; drained on a plain (blocking) thread.
pub trait ChangeSource: Send {
    /// The description that rows of `id` follow.
    fn relation(&self, id: RelationId) -> Option<Arc<Relation>>;

    /// Hands every change in commit order to `sink`; stops early if that returns an error. Called again
    /// from the start when a batch is tried again.
    ///
    /// # Errors
    /// The sink's, or what kept the source from reading.
    fn drain(
        &self,
        sink: &mut dyn FnMut(Xid, &RowChange<'_>) -> Result<(), ApplyError>,
    ) -> Result<(), ApplyError>;
}

/// What to do with each provider table. Tables not in it are ignored.
#[derive(Clone, Debug, Default)]
pub struct Targets {
    map: HashMap<TableName, Target>,
    /// The provider's numbers of tables, where they are known.
    oids: HashMap<Oid, TableName>,
}

#[derive(Clone, Debug)]
pub struct Target {
    /// The table on the subscriber.
    pub dest: TableName,
    /// The initial copy's snapshot: changes of transactions it sees are in the copy already.
    pub skip_visible_in: Option<Snapshot>,
}

impl Targets {
    /// Adds a table by its name on the provider.
    pub fn insert(&mut self, table: TableName, target: Target) {
        self.map.insert(table, target);
    }

    /// Says which table of the provider it is, whatever it is called later.
    pub fn known_by(&mut self, oid: Oid, table: TableName) {
        self.oids.insert(oid, table);
    }

    pub fn get(&self, table: &TableName) -> Option<&Target> {
        self.map.get(table)
    }

    fn of_oid(&self, oid: Oid) -> Option<&TableName> {
        self.oids.get(&oid)
    }
}

impl FromIterator<(TableName, Target)> for Targets {
    fn from_iter<I: IntoIterator<Item = (TableName, Target)>>(iter: I) -> Targets {
        let map = iter.into_iter().collect();
        Targets {
            map,
            oids: HashMap::new(),
        }
    }
}

#[derive(Clone, Debug)]
pub struct ApplySettings {
    pub application_name: String,
    /// Memory for the net effect of a batch's part, rows and index; default 32 MiB.
    pub chunk_bytes: usize,
    /// Whether COMMIT waits for the subscriber's disk; default no: a batch lost with the subscriber's
    /// last moments is applied again, as its position is lost with it.
    pub synchronous_commit: bool,
    /// Says what the provider's own types are. Without it, columns are of the same types on both sides.
    pub types: Option<Arc<ProviderTypes>>,
}

impl Default for ApplySettings {
    fn default() -> ApplySettings {
        ApplySettings {
            application_name: "skytide apply".to_owned(),
            chunk_bytes: 32 << 20,
            synchronous_commit: false,
            types: None,
        }
    }
}

/// What a batch came to.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Changes of target tables in the batch, and rows sent after net effect.
    pub rows_in: u64,
    pub rows_out: u64,
    pub inserted: u64,
    pub updated: u64,
    pub deleted: u64,
    pub truncates: u64,
    /// Updates and deletes whose row was not there.
    pub missing_updates: u64,
    pub missing_deletes: u64,
    /// The batch was applied again in exact order, after a conflict that its order made.
    pub exact: bool,
    pub tables: BTreeMap<TableName, TableReport>,
    /// Our own work of reading, netting and encoding.
    pub planning: Duration,
    /// From begin to the end of commit, all tries.
    pub total: Duration,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableReport {
    pub inserted: u64,
    pub updated: u64,
    pub deleted: u64,
    pub missing: u64,
}

/// Applies batches over one connection.
pub struct Applier {
    session: Session,
    line: Line,
    planner: Option<Planner>,
    exact: ExactTables,
    warned: Warned,
    target: ConnectString,
    settings: ApplySettings,
    /// A batch failed: the connection is not to be used again.
    broken: bool,
}

/// How often a table's missing rows are told.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// When a table's oddities were told last.
#[derive(Default)]
struct Warned {
    missing: HashMap<TableName, Instant>,
    ignored: HashMap<TableName, Vec<String>>,
}

impl Applier {
    /// Connects to the subscriber.
    ///
    /// # Errors
    /// No connection, or the role may not set `session_replication_role`.
    pub async fn connect(target: &ConnectString, settings: ApplySettings) -> Result<Applier, ApplyError> {
        let line = Line::new();
        Ok(Applier {
            session: Session::connect(target, &settings, line).await?,
            line,
            planner: Some(Planner::new(settings.chunk_bytes)),
            exact: ExactTables::default(),
            warned: Warned::default(),
            broken: false,
            target: target.clone(),
            settings,
        })
    }

    /// The connection, between batches. After a failed batch it may be closed until the next one.
    pub fn client(&self) -> &tokio_postgres::Client {
        self.session.client()
    }

    /// Applies a batch in one transaction, with what `finish` says of the drained source (position,
    /// table states) as its last statements.
    ///
    /// # Errors
    /// Nothing of the batch is applied, unless the connection broke during the commit.
    pub async fn apply<S: ChangeSource + 'static>(
        &mut self,
        source: S,
        targets: Arc<Targets>,
        finish: impl Fn(&S) -> Result<Vec<String>, ApplyError>,
    ) -> Result<(S, Report), ApplyError> {
        let started = Instant::now();
        let (mut source, mut exact, mut tried_new_shape) = (source, false, false);
        loop {
            self.reconnect().await?;
            self.broken = true; // until the batch is through; the caller may stop waiting for us, too
            let (back, failure) = match self.attempt(source, &targets, &finish).await {
                Ok((source, mut report)) => {
                    self.broken = false;
                    report.exact = exact;
                    report.total = started.elapsed();
                    self.exact.batch_done();
                    self.warned.tell_missing(&report);
                    return Ok((source, report));
                }
                Err(failed) => *failed,
            };
            let again = match &failure {
                ApplyError::Table { table, error, .. } if may_be_order(error) => {
                    let constraint = error.as_db_error().and_then(|e| e.constraint());
                    tracing::debug!(%table, constraint, "conflict; the batch is applied in exact order");
                    exact = true;
                    self.exact.note(table)
                }
                ApplyError::Table { error, .. } | ApplyError::Session { error, .. } => {
                    may_be_new_shape(error) && !std::mem::replace(&mut tried_new_shape, true)
                }
                ApplyError::BadBinary { .. } | ApplyError::ForeignType { .. } => {
                    !std::mem::replace(&mut tried_new_shape, true)
                }
                _ => false,
            };
            if tried_new_shape && let Some(types) = &self.settings.types {
                types.forget().await;
            }
            source = match back {
                Some(back) if again => back,
                _ => return Err(failure),
            };
        }
    }

    /// After a failure the connection is replaced: its transaction, staging types and prepared statements
    /// are worth nothing, the driver loses count of the answers when a COPY could not start, and the
    /// tables may have been altered.
    async fn reconnect(&mut self) -> Result<(), ApplyError> {
        if self.broken {
            self.session = Session::connect(&self.target, &self.settings, self.line).await?;
            if let Some(planner) = &mut self.planner {
                planner.forget();
            }
            self.broken = false;
        }
        Ok(())
    }

    /// One try. The source comes back with a failure if the planner's thread gave it back.
    async fn attempt<S: ChangeSource + 'static>(
        &mut self,
        source: S,
        targets: &Arc<Targets>,
        finish: &impl Fn(&S) -> Result<Vec<String>, ApplyError>,
    ) -> Result<(S, Report), Box<(Option<S>, ApplyError)>> {
        let (sender, receiver) = mpsc::channel(1);
        let mut planner = self
            .planner
            .take()
            .unwrap_or(Planner::new(self.settings.chunk_bytes));
        let (targets, exact) = (targets.clone(), self.exact.names());
        let thread = tokio::task::spawn_blocking(move || {
            let planned = planner.run(&source, &targets, &exact, &sender);
            (planner, source, planned)
        });
        self.session.begin().await;
        let mut report = Report::default();
        let received = self.receive(receiver, &mut report).await;
        let (planner, source, planned) = thread
            .await
            .map_err(|panic| Box::new((None, ApplyError::Planner(panic.to_string()))))?;
        self.planner = Some(planner);
        let done = match (received, planned) {
            (Ok(()), Ok(planned)) => match finish(&source) {
                Ok(finish) => self.commit(&finish, &planned, &mut report).await,
                Err(error) => Err(error),
            },
            (Err(error), _) | (Ok(()), Err(error)) => Err(error),
        };
        match done {
            Ok(()) => Ok((source, report)),
            Err(error) => Err(Box::new((Some(source), error))),
        }
    }

    /// Sends on what the planner makes, until it has no more.
    async fn receive(
        &mut self,
        mut receiver: mpsc::Receiver<Message>,
        report: &mut Report,
    ) -> Result<(), ApplyError> {
        loop {
            let message = tokio::select! {
                biased;
                Some((sent, result)) = self.session.answer(), if !self.session.is_idle() => {
                    report.count(&sent, result?);
                    continue;
                }
                message = receiver.recv(), if self.session.has_room() => message,
            };
            match message {
                None => return Ok(()),
                Some(Message::Resolve {
                    relation,
                    dest,
                    reply,
                }) => {
                    self.answers(report).await?;
                    let types = self.settings.types.as_deref();
                    let shape = Shape::resolve(self.session.client(), types, relation, dest).await?;
                    self.warned.tell_ignored(&shape);
                    reply.send(Arc::new(shape)).ok();
                }
                Some(Message::Ops(ops)) => {
                    for op in ops {
                        if !self.session.is_ready_for(&op) {
                            self.answers(report).await?;
                        }
                        while !self.session.has_room()
                            && let Some((sent, result)) = self.session.answer().await
                        {
                            report.count(&sent, result?);
                        }
                        self.session.send(op).await?;
                    }
                }
            }
        }
    }

    /// Waits for everything in flight.
    async fn answers(&mut self, report: &mut Report) -> Result<(), ApplyError> {
        while let Some((sent, result)) = self.session.answer().await {
            report.count(&sent, result?);
        }
        Ok(())
    }

    async fn commit(
        &mut self,
        finish: &[String],
        planned: &Planned,
        report: &mut Report,
    ) -> Result<(), ApplyError> {
        fail::fail_point!("apply::before_commit");
        // One message: if the transaction has failed, the first statement fails and COMMIT never runs.
        // COMMIT alone would turn into a silent ROLLBACK, so without `finish` the answers come first.
        if finish.is_empty() {
            self.answers(report).await?;
        }
        // Before `finish`, which may alter tables itself.
        let unaltered = self.session.unaltered();
        let mut last: Vec<&str> = unaltered.iter().chain(finish).map(String::as_str).collect();
        last.push("commit");
        self.session.command("commit", last.join(";\n")).await;
        self.answers(report).await?;
        fail::fail_point!("apply::after_commit");
        report.rows_in = planned.rows_in;
        report.rows_out = planned.rows_out;
        report.truncates = planned.truncates;
        report.missing_updates += planned.missing_updates;
        report.missing_deletes += planned.missing_deletes;
        report.planning = planned.busy;
        Ok(())
    }
}

impl Report {
    fn count(&mut self, sent: &Sent, hit: u64) {
        let Sent::Rows { shape, action, rows } = sent else {
            return;
        };
        let missing = u64::from(*rows).saturating_sub(hit);
        let table = self.tables.entry(shape.dest.clone()).or_default();
        table.missing += missing;
        let (all, one) = match action {
            Action::Insert => (&mut self.inserted, &mut table.inserted),
            Action::Update | Action::Rekey => {
                self.missing_updates += missing;
                (&mut self.updated, &mut table.updated)
            }
            Action::Delete => {
                self.missing_deletes += missing;
                (&mut self.deleted, &mut table.deleted)
            }
        };
        *all += hit;
        *one += hit;
    }
}

impl Warned {
    fn tell_missing(&mut self, report: &Report) {
        for (table, counts) in report.tables.iter().filter(|(_, counts)| counts.missing > 0) {
            let told = self.missing.get(table);
            if told.is_none_or(|at| at.elapsed() >= WARN_EVERY) {
                self.missing.insert(table.clone(), Instant::now());
                tracing::warn!(%table, rows = counts.missing, "rows to update or delete were not there");
            }
        }
    }

    fn tell_ignored(&mut self, shape: &Shape) {
        let told = self.ignored.get(&shape.dest) == Some(&shape.ignored);
        if !told && !shape.ignored.is_empty() {
            let columns = shape.ignored.join(", ");
            let table = &shape.dest;
            tracing::warn!(%table, columns, "columns are not replicated, the subscriber lacks them; add them by alter table");
            self.ignored.insert(shape.dest.clone(), shape.ignored.clone());
        }
    }
}
