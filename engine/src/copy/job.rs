//! One table's copy from start to `ok`.
//!
//! Durable order, and what a crash leaves:
//! 1. copy consumer registered at tick P0, state `in-copy` (one transaction): the copy starts again;
//! 2. indexes dropped, their script stored (one transaction): the copy starts again with the script;
//! 3. table emptied, and only then the provider's lock and snapshot taken, rows copied: the copy starts again;
//! 4. state `catching-up` with the copy's snapshot: the rows are never copied again; missing indexes
//!    are built from the script;
//! 5. script cleared; each batch applied with the copy consumer's tick: catching up goes on;
//! 6. `wanna-sync`, `do-sync`: as `catching-up`, the hand-over is asked for again;
//! 7. the main replay, waiting at the same tick, sets state `ok` and drops the copy consumer (one
//!    transaction).

use std::sync::Arc;
use std::time::Duration;

use skytide_sql::api::{londiste, pgq_node};
use skytide_sql::conn::ConnectString;
use skytide_sql::ident::quote_literal;
use skytide_sql::{ConsumerName, NodeName, Oid, QueueName, Snapshot, TableName, TickId};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_postgres::error::SqlState;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::indexes::{build_again, parse_script, take_away};
use super::plan::{CopyPlan, shape};
use super::snapshot::CopySnapshot;
use super::transfer::{Ends, copy_range, copy_rows};
use super::{CopyError, Phase, Progress, fence};
use crate::apply::{Applier, ApplySettings, Target, Targets, connect_subscriber};
use crate::batch::{Follower, Limits};
use crate::capture::slot;
use crate::table::{MergeState, Step, guard};

/// Tables smaller than this keep their indexes while rows are copied.
const KEEP_INDEXES_BYTES: u64 = 64 << 20;

/// One copy at a time puts foreign keys aside, of all queues of the database.
const KEYS_ALONE: &str =
    "select pg_catalog.pg_advisory_lock(pg_catalog.hashtextextended('skytide.foreign_keys', 0))";
const KEYS_DONE: &str =
    "select pg_catalog.pg_advisory_unlock(pg_catalog.hashtextextended('skytide.foreign_keys', 0))";

/// Tables of this database that are followed, by any queue.
const FOLLOWED: &str = "select coalesce(dest_table, table_name) from londiste.table_info where local";

/// A table asks the main replay to take it over.
pub struct Handover {
    pub table: TableName,
    /// What the copy held.
    pub snapshot: Option<Snapshot>,
    pub caught_up: TickId,
    /// The tick at which the main replay waits.
    pub waits_at: oneshot::Sender<TickId>,
    /// Resolves when the table has reached it (or the copy died: the sender is dropped).
    pub reached: oneshot::Receiver<TickId>,
}

/// Everything a copy needs to know.
#[derive(Clone)]
pub struct CopySettings {
    pub queue: QueueName,
    pub job_name: String,
    /// The consumer that is the main replay's position.
    pub worker: ConsumerName,
    pub provider: ConnectString,
    pub provider_node: NodeName,
    pub provider_version: u32,
    pub subscriber: ConnectString,
    pub publication: String,
    /// The stream sends binary values.
    pub binary: bool,
    /// Connections for the rows of one table, and for its indexes.
    pub connections: usize,
    /// How long a copy waits for a table's lock before it lets others go first and starts again.
    pub lock_timeout: Duration,
    pub apply: ApplySettings,
    pub batch_rows: u64,
}

pub struct CopyJob {
    pub settings: CopySettings,
    /// The name under which the set knows it.
    pub table: TableName,
    /// What the provider calls it.
    pub source: TableName,
    pub source_oid: Option<Oid>,
    pub dest: TableName,
    pub state: MergeState,
    pub skip_truncate: bool,
    pub dropped_ddl: Option<String>,
    pub snapshot: Option<Snapshot>,
    pub progress: Arc<Progress>,
    /// Where the main replay is.
    pub main_tick: watch::Receiver<TickId>,
    pub handovers: mpsc::Sender<Handover>,
}

impl CopyJob {
    fn application_name(&self) -> String {
        format!("{} copy {}", self.settings.job_name, self.table)
    }

    /// The cascaded consumer that holds the copy's own position.
    pub fn consumer(job_name: &str, table: &TableName) -> Result<ConsumerName, skytide_sql::names::BadName> {
        ConsumerName::new(format!("{job_name}.copy.{table}"))
    }

    /// Runs the table up to `ok`. `follower` stands at the copy consumer's tick, or for a table that
    /// is not copied yet, at the main replay's.
    pub async fn run(mut self, follower: Follower, cancel: CancellationToken) -> Result<(), CopyError> {
        tokio::select! {
            () = cancel.cancelled() => Err(CopyError::Cancelled),
            done = self.steps(follower) => done,
        }
    }

    async fn steps(&mut self, follower: Follower) -> Result<(), CopyError> {
        if !self.state.is_copied() {
            self.copy(follower.tick()).await?;
        }
        self.finish_indexes().await?;
        self.catch_up(follower).await
    }

    /// Stores the state after `step` together with the snapshot, unless the operator has changed it.
    async fn step(&mut self, client: &tokio_postgres::Client, step: Step) -> Result<(), CopyError> {
        let next = self.state.after(step)?;
        let sql = format!("begin; {}; commit", self.store(self.state, next));
        client.batch_execute(&sql).await.map_err(|e| self.set_back(e))?;
        self.state = next;
        Ok(())
    }

    /// Statements that store a state in place of another; they fail if somebody else has changed it.
    fn store(&self, from: MergeState, next: MergeState) -> String {
        let queue = &self.settings.queue;
        let literal = |text: Option<String>| text.map_or("null".to_owned(), |t| quote_literal(&t));
        format!(
            "{}; select londiste.local_set_table_state({}, {}, {}, {})",
            guard::state_is(queue, &self.table, from),
            quote_literal(queue.as_str()),
            quote_literal(&self.table.to_string()),
            literal(self.snapshot.as_ref().map(ToString::to_string)),
            literal(next.stored()),
        )
    }

    /// What a failure of `store` means.
    fn set_back(&self, error: tokio_postgres::Error) -> CopyError {
        if error.code() == Some(&SqlState::T_R_SERIALIZATION_FAILURE) {
            return CopyError::SetBack {
                table: self.table.clone(),
            };
        }
        error.into()
    }

    async fn copy(&mut self, from_tick: TickId) -> Result<(), CopyError> {
        let s = self.settings.clone();
        let name = self.application_name();
        let consumer = Self::consumer(&s.job_name, &self.table).map_err(|e| CopyError::Table {
            table: self.table.clone(),
            what: e.to_string(),
        })?;
        self.progress.enter(Phase::Fence);
        let mut subscriber = connect_subscriber(&s.subscriber, &name).await?;
        let provider = skytide_sql::conn::connect(&s.provider, &name).await?;
        let set_timeout = format!("set lock_timeout = {}", s.lock_timeout.as_millis());
        subscriber.batch_execute(&set_timeout).await?;
        provider.batch_execute(&set_timeout).await?;
        let source_shape = shape(&provider, &self.source, "provider").await?;
        let dest_shape = shape(&subscriber, &self.dest, "subscriber").await?;
        let published = provider
            .query_opt(
                "select 1 from pg_catalog.pg_publication_rel r join pg_catalog.pg_publication p on p.oid = r.prpubid \
                 where p.pubname = $1 and r.prrelid = $2",
                &[&s.publication, &source_shape.oid.get()],
            )
            .await?;
        if published.is_none() {
            return Err(CopyError::NotPublished {
                table: self.source.clone(),
                publication: s.publication,
            });
        }
        // Before the copy: what the stream sends from here on must be of use to this table.
        if s.binary
            && !(slot::binary_is_portable(&provider, &s.publication).await?
                && slot::binary_fits(&provider, &subscriber, &s.queue).await?)
        {
            return Err(CopyError::NeedsText {
                table: self.table.clone(),
            });
        }
        self.progress.expect_rows(source_shape.estimated_rows);
        let source_oid = source_shape.oid;
        self.source_oid = Some(source_oid);
        let source_bytes = source_shape.bytes;
        let plan = Arc::new(CopyPlan::new(
            self.source.clone(),
            self.dest.clone(),
            source_shape,
            &dest_shape,
        )?);

        // 1.
        {
            let transaction = subscriber.transaction().await?;
            pgq_node::register_consumer(&transaction, &s.queue, &consumer, &s.provider_node, from_tick)
                .await?;
            let next = self.state.after(Step::StartCopy)?;
            self.snapshot = None;
            let sql = self.store(self.state, next);
            transaction
                .batch_execute(&sql)
                .await
                .map_err(|e| self.set_back(e))?;
            transaction.commit().await?;
            self.state = next;
        }
        fail::fail_point!("copy::in_copy");
        let locked = |e: CopyError| e.or_locked(&self.dest, "subscriber");
        let referenced = self.drop_foreign_keys(&subscriber).await.map_err(locked)?;

        // 2.
        if source_bytes >= KEEP_INDEXES_BYTES && self.dropped_ddl.is_none() && !self.skip_truncate {
            let (queue, table) = (s.queue.clone(), self.table.clone());
            let builds = take_away(&mut subscriber, &self.dest, async |transaction, script| {
                londiste::local_set_table_struct(transaction, &queue, &table, Some(script)).await?;
                Ok(())
            })
            .await?;
            if !builds.is_empty() {
                self.dropped_ddl = Some(super::indexes::script(&builds));
            }
        }

        // 3.
        fence::wait_for_writers(&provider, &self.source, source_oid).await?;
        if !self.skip_truncate {
            let empty = if referenced {
                "delete from only"
            } else {
                "truncate only"
            };
            // Who reads here may take his time: nobody on the provider has to wait for him.
            subscriber
                .batch_execute(&format!("{empty} {}", self.dest.quoted()))
                .await
                .map_err(|e| CopyError::from(e).or_locked(&self.dest, "subscriber"))?;
        }
        let snapshot = CopySnapshot::take(&s.provider, &name, &self.source, s.lock_timeout).await?;
        fail::fail_point!("copy::snapshot");
        // The snapshot keeps the table from being altered; nothing did so far. Asked on its own session: another
        // one would wait behind whoever waits for us.
        let now = shape(snapshot.session(), &self.source, "provider").await?;
        if now.oid != source_oid || now.columns != plan.source_shape.columns {
            return Err(CopyError::Table {
                table: self.source.clone(),
                what: "was altered before its copy began".into(),
            });
        }
        self.progress.enter(Phase::Copy);
        let started = std::time::Instant::now();
        let ends = Ends {
            provider: &s.provider,
            subscriber: &s.subscriber,
            application_name: &name,
            lock_timeout: s.lock_timeout,
        };
        self.snapshot = Some(snapshot.snapshot().clone());
        let rows = if self.skip_truncate {
            // A copy that died could not be told from the rows that were there before, so here the rows
            // and the state (4.) come together.
            let source = snapshot.join(&s.provider, &name).await?;
            subscriber.batch_execute("begin").await?;
            let rows = copy_range(&source, &subscriber, &plan, None, &self.progress)
                .await
                .map_err(|e| e.or_locked(&self.dest, "subscriber"))?;
            fail::fail_point!("copy::before_catching_up");
            let next = self.state.after(Step::Copied)?;
            let sql = format!("{}; commit", self.store(self.state, next));
            subscriber
                .batch_execute(&sql)
                .await
                .map_err(|e| self.set_back(e))?;
            self.state = next;
            rows
        } else {
            let ranges = plan.ranges(s.provider_version, s.connections);
            let rows = copy_rows(&ends, &plan, &snapshot, ranges, s.connections, &self.progress).await?;
            // The provider's table is free again, whatever the rest waits for.
            drop(snapshot);
            fail::fail_point!("copy::before_catching_up");
            // 4.
            self.step(&subscriber, Step::Copied).await?;
            rows
        };
        let seconds = started.elapsed().as_secs_f64();
        info!(table = %self.table, rows, seconds, bytes = self.progress.bytes(), "copied");
        fail::fail_point!("copy::catching_up");
        Ok(())
    }

    /// Foreign keys come back when both their tables are in sync. So one whose other table nobody follows stays: it
    /// would never come back. True: such a table refers to this one, which PostgreSQL then does not truncate.
    async fn drop_foreign_keys(&self, subscriber: &tokio_postgres::Client) -> Result<bool, CopyError> {
        // Two copies may have a key in common, or two keys with their tables crossed. An error ends the session.
        subscriber.batch_execute(KEYS_ALONE).await?;
        let followed: Vec<String> = subscriber
            .query(FOLLOWED, &[])
            .await?
            .iter()
            .map(|row| row.get(0))
            .collect();
        let dest = self.dest.to_string();
        let mut referenced = false;
        for key in londiste::find_table_fkeys(subscriber, &self.dest).await? {
            let other = if key.from_table == dest {
                &key.to_table
            } else {
                &key.from_table
            };
            if followed.contains(other) {
                londiste::drop_table_fkey(subscriber, &key.from_table, &key.fkey_name).await?;
            } else if key.to_table == dest {
                warn!(
                    table = %self.dest, fkey = key.fkey_name, from = key.from_table,
                    "a table that is not followed refers to this one: its rows are deleted, not truncated"
                );
                referenced = true;
            }
        }
        subscriber.batch_execute(KEYS_DONE).await?;
        Ok(referenced)
    }

    async fn finish_indexes(&mut self) -> Result<(), CopyError> {
        let s = &self.settings;
        let name = self.application_name();
        if let Some(script) = self.dropped_ddl.take() {
            self.progress.enter(Phase::Indexes);
            build_again(
                &s.subscriber,
                &name,
                &self.dest,
                parse_script(&script),
                s.connections.max(2),
            )
            .await?;
            let client = connect_subscriber(&s.subscriber, &name).await?;
            londiste::local_set_table_struct(&*client, &s.queue, &self.table, None).await?;
            fail::fail_point!("copy::indexes_built");
        }
        let client = connect_subscriber(&s.subscriber, &name).await?;
        client
            .batch_execute(&format!("analyze {}", self.dest.quoted()))
            .await?;
        Ok(())
    }

    async fn catch_up(&mut self, mut follower: Follower) -> Result<(), CopyError> {
        self.progress.enter(Phase::CatchUp);
        let s = self.settings.clone();
        let consumer = Self::consumer(&s.job_name, &self.table).map_err(|e| CopyError::Table {
            table: self.table.clone(),
            what: e.to_string(),
        })?;
        let apply = ApplySettings {
            application_name: self.application_name(),
            ..s.apply.clone()
        };
        let mut applier = Applier::connect(&s.subscriber, apply).await?;
        let mut targets = Targets::default();
        targets.insert(
            self.source.clone(),
            Target {
                dest: self.dest.clone(),
                skip_visible_in: self.snapshot.clone(),
            },
        );
        if let Some(oid) = self.source_oid {
            targets.known_by(oid, self.source.clone());
        }
        let targets = Arc::new(targets);
        loop {
            // Behind the main position there is always a tick to go to.
            let main = *self.main_tick.borrow_and_update();
            self.follow(&mut follower, &mut applier, &targets, &consumer, main)
                .await?;
            let now = *self.main_tick.borrow();
            let few = now.get() - follower.tick().get() <= 100;
            if !few {
                continue;
            }
            self.step(applier.client(), Step::CaughtUp(follower.tick()))
                .await?;
            fail::fail_point!("copy::wanna_sync");
            let (waits_at, at) = oneshot::channel();
            let (tell_reached, reached) = oneshot::channel();
            let handover = Handover {
                table: self.table.clone(),
                snapshot: self.snapshot.clone(),
                caught_up: follower.tick(),
                waits_at,
                reached,
            };
            self.handovers
                .send(handover)
                .await
                .map_err(|_| CopyError::Cancelled)?;
            let Ok(at) = at.await else {
                // The main replay was busy with something else; ask again.
                warn!(table = %self.table, "hand-over was not answered, asking again");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            self.follow(&mut follower, &mut applier, &targets, &consumer, at)
                .await?;
            // The rest is the main replay's.
            let _ = tell_reached.send(follower.tick());
            return Ok(());
        }
    }

    /// Applies this table's changes up to the tick.
    async fn follow(
        &self,
        follower: &mut Follower,
        applier: &mut Applier,
        targets: &Arc<Targets>,
        consumer: &ConsumerName,
        up_to: TickId,
    ) -> Result<(), CopyError> {
        let limits = Limits {
            rows: self.settings.batch_rows,
            stop_at: Some(up_to),
        };
        while follower.tick() < up_to {
            let Some(plan) = follower.plan(limits)? else {
                return Err(CopyError::Batch(crate::batch::BatchError::TickGap {
                    expected: up_to,
                    found: follower.tick(),
                }));
            };
            let finish =
                pgq_node::advance_consumer(&self.settings.queue, consumer, follower.tick(), plan.to.tick_id);
            let source = follower.source(&plan);
            let (source, _) = applier
                .apply(source, Arc::clone(targets), |_| Ok(finish.to_vec()))
                .await?;
            follower.advance(&plan, source);
            fail::fail_point!("copy::caught_up_batch");
        }
        // The spool is held from the copy's start until the table is ok: simple, and safe with
        // asynchronous commits.
        Ok(())
    }
}
