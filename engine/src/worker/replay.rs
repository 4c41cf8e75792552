//! The main replay: batch after batch into the subscriber.

use std::sync::Arc;
use std::time::Duration;

use skytide_sql::api::{londiste, pgq_node};
use skytide_sql::conn::{Session, connect_to_write};
use skytide_sql::ident::quote_literal;
use skytide_sql::{QueueName, Snapshot, TableName, TickId, Xid};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_postgres::{Client, Notification};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::copies::Copies;
use super::events::{EventTap, statements};
use super::lists::{learn_set, load_registry};
use super::place::{place_after, place_at_anchor};
use super::start::Node;
use super::{Shared, WorkerError, WorkerSettings};
use crate::apply::{Applier, ApplyError, ApplySettings, ProviderTypes};
use crate::batch::{BatchError, Follower, Limits, Plan};
use crate::capture::CaptureSettings;
use crate::copy::{CopyError, CopyJob, Handover};
use crate::spool::Spool;
use crate::table::registry::{ProviderTable, Registry, TABLES_CHANGED};
use crate::table::{MergeState, Step};

/// How often the position is made durable and the spool let go of.
const SETTLE_PERIOD: Duration = Duration::from_secs(1);

/// What a replay needs that outlives its connection.
pub struct Context {
    pub shared: Arc<Shared>,
    pub node: Node,
    pub capture: CaptureSettings,
    pub spool: Arc<Spool>,
    pub types: Arc<ProviderTypes>,
    pub anchor: Xid,
    /// The provider's names of its tables, as last seen: replay goes on when the provider is away.
    pub provider_names: tokio::sync::Mutex<Option<Vec<ProviderTable>>>,
}

impl Context {
    pub fn apply_settings(&self) -> ApplySettings {
        ApplySettings {
            types: Some(Arc::clone(&self.types)),
            ..self.shared.settings.apply.clone()
        }
    }
}

/// Replays until cancelled.
pub async fn run(context: &Context, cancel: &CancellationToken) -> Result<(), WorkerError> {
    let settings = &context.shared.settings;
    let mut control = connect_to_write(&settings.db, &settings.job_name).await?;
    lock_node(&control, settings).await?;
    let wishes = control.notifications().unwrap_or_else(|| mpsc::channel(1).1);
    control.batch_execute("listen pgq_node_changed").await?;
    let applier = Applier::connect(&settings.db, context.apply_settings()).await?;
    let mut registry = load_registry(context, &control).await?;
    let state = pgq_node::get_worker_state(&*control, &settings.queue).await?;
    let position = TickId::new(state.completed_tick);
    let follower = if registry.any_copied() {
        place_after(context, position).await?
    } else {
        let follower = place_at_anchor(context, &control).await?;
        // What the set's events said before that is not in the spool: a table may have come or gone meanwhile.
        if learn_set(context, &control).await? {
            registry = load_registry(context, &control).await?;
        }
        follower
    };
    info!(tick = %follower.tick(), "replay starts");
    let mut replay = Replay {
        context,
        copies: Copies::new(cancel),
        control,
        wishes,
        applier,
        registry,
        follower,
        reload_at: Instant::now(),
        settle_at: Instant::now() + SETTLE_PERIOD,
        paused: state.paused,
        unsettled: true,
    };
    replay.tell_position();
    let ended = replay.batches(cancel).await;
    replay.copies.stop().await;
    if ended.is_ok() {
        replay.settle().await?;
    }
    ended
}

/// One worker a node. Should this connection be lost unnoticed, the guard in each batch still stands.
async fn lock_node(control: &Session, settings: &WorkerSettings) -> Result<(), WorkerError> {
    let row = control
        .query_one(
            "select pg_catalog.pg_try_advisory_lock(pg_catalog.hashtextextended('skytide.worker.' || $1, 0))",
            &[&settings.queue.as_str()],
        )
        .await?;
    if row.get(0) {
        Ok(())
    } else {
        Err(WorkerError::Busy {
            queue: settings.queue.clone(),
        })
    }
}

/// The batch is to be applied anew, with another list of tables.
fn tables_changed(error: &ApplyError) -> bool {
    let code = error.database().and_then(tokio_postgres::Error::code);
    code.is_some_and(|code| code.code() == TABLES_CHANGED)
}

struct Replay<'a> {
    context: &'a Context,
    /// For everything but batches; holds the node's lock.
    control: Session,
    /// Somebody changed the node's tables or paused it.
    wishes: mpsc::Receiver<Notification>,
    applier: Applier,
    registry: Registry,
    follower: Follower,
    copies: Copies,
    reload_at: Instant,
    settle_at: Instant,
    /// By `pgq_node.set_consumer_paused`.
    paused: bool,
    /// Batches were applied since the position was last made durable.
    unsettled: bool,
}

impl Replay<'_> {
    fn settings(&self) -> &WorkerSettings {
        &self.context.shared.settings
    }

    async fn batches(&mut self, cancel: &CancellationToken) -> Result<(), WorkerError> {
        while !cancel.is_cancelled() {
            let published = self.context.shared.published.notified();
            tokio::pin!(published);
            published.as_mut().enable();
            if self.copies.reap()? {
                // What it held may go, unless its table's state says otherwise.
                self.reload_at = Instant::now();
                self.unsettled = true;
            }
            while let Ok(handover) = self.copies.handovers.try_recv() {
                self.hand_over(handover).await?;
            }
            // However many batches wait: the next one would be applied twice, as the list is looked at when it ends.
            while let Ok(wish) = self.wishes.try_recv() {
                self.heed(&wish);
            }
            if Instant::now() >= self.reload_at {
                self.reload().await?;
            }
            if self.unsettled && Instant::now() >= self.settle_at {
                self.settle().await?;
            }
            let limits = Limits {
                rows: self.settings().batch_rows,
                stop_at: None,
            };
            if !self.paused
                && let Some(plan) = self.follower.plan(limits)?
            {
                self.apply(plan).await?;
                continue;
            }
            if self.follower.has_pending() {
                self.context.shared.tick_wanted.notify_one();
            }
            let next = if self.unsettled {
                self.reload_at.min(self.settle_at)
            } else {
                self.reload_at
            };
            tokio::select! {
                () = cancel.cancelled() => {}
                () = published => {}
                () = sleep_until(next) => {}
                Some(wish) = self.wishes.recv() => self.heed(&wish),
                handover = self.copies.handovers.recv() => if let Some(handover) = handover {
                    self.hand_over(handover).await?;
                }
            }
        }
        Ok(())
    }

    fn heed(&mut self, wish: &Notification) {
        if wish.payload() == self.settings().queue.as_str() {
            self.reload_at = Instant::now();
        }
    }

    async fn apply(&mut self, plan: Plan) -> Result<(), WorkerError> {
        let started = Instant::now();
        let settings = self.settings().clone();
        let tick = plan.to.tick_id;
        let mut finish = vec![self.registry.guard(&settings.queue)];
        finish.extend(pgq_node::advance_consumer(
            &settings.queue,
            &self.context.node.worker,
            self.follower.tick(),
            tick,
        ));
        let mut cleared = false;
        for table in self.registry.tables.iter().filter(|t| t.state == MergeState::Ok) {
            // From here on no new transaction can be one that the copy had.
            if table
                .snapshot
                .as_ref()
                .is_some_and(|s| plan.to.snapshot.is_wholly_after(s))
            {
                cleared = true;
                let queue = quote_literal(settings.queue.as_str());
                let name = quote_literal(&table.table.to_string());
                // Only if it still is what we think it is: the operator may have asked for a new copy.
                finish.push(format!(
                    "select londiste.local_set_table_state({queue}, {name}, null, 'ok') \
                     from londiste.table_info where queue_name = {queue} and local \
                     and table_name = londiste.make_fqname({name}) \
                     and merge_state in ('ok', '?') and custom_snapshot is not null"
                ));
            }
        }
        let source = EventTap::new(self.follower.source(&plan));
        let queue = settings.queue.clone();
        let with_events = move |tap: &EventTap| {
            let mut all = finish.clone();
            for event in tap.events() {
                all.extend(statements(&queue, &event).map_err(|e| ApplyError::Finish(Box::new(e)))?);
            }
            Ok(all)
        };
        let targets = self.registry.targets();
        let (source, report) = match self.applier.apply(source, targets, with_events).await {
            Err(error) if tables_changed(&error) => return self.reload().await,
            applied => applied?,
        };
        let changed_tables = source.events().iter().any(|e| e.kind.starts_with("londiste."));
        self.follower.advance(&plan, source.into_batch());
        self.unsettled = true;
        self.tell_position();
        let figures = &self.context.shared.figures;
        figures.applied(&report, plan.ticks, started.elapsed());
        debug!(%tick, ticks = plan.ticks, rows = plan.rows, elapsed = ?started.elapsed(), "batch applied");
        if cleared || changed_tables {
            self.reload().await?;
        }
        if plan.to.barrier {
            self.wait_at_gate().await?;
        }
        Ok(())
    }

    fn tell_position(&self) {
        self.context.shared.main_tick.send_replace(self.follower.tick());
        let figures = &self.context.shared.figures;
        figures.position(self.follower.tick(), self.follower.tick_time());
    }

    /// A compare holds the gate until it has its snapshot of the subscriber at this very tick.
    async fn wait_at_gate(&self) -> Result<(), WorkerError> {
        let queue = quote_literal(self.settings().queue.as_str());
        let key = format!("pg_catalog.hashtextextended('skytide.compare.' || {queue}, 0)");
        self.control
            .batch_execute(&format!(
                "select pg_catalog.pg_advisory_lock_shared({key}); \
                 select pg_catalog.pg_advisory_unlock_shared({key})"
            ))
            .await?;
        Ok(())
    }

    /// Reads table states again, starts and stops copies, brings back foreign keys.
    async fn reload(&mut self) -> Result<(), WorkerError> {
        let settings = self.settings().clone();
        let state = pgq_node::get_worker_state(&*self.control, &settings.queue).await?;
        if TickId::new(state.completed_tick) != self.follower.tick() {
            return Err(WorkerError::Moved {
                to: TickId::new(state.completed_tick),
                from: self.follower.tick(),
            });
        }
        let known: Vec<ProviderTable> = self
            .registry
            .tables
            .iter()
            .map(|t| ProviderTable {
                table: t.table.clone(),
                source: t.source.clone(),
                oid: t.source_oid,
            })
            .collect();
        let fresh = Registry::load(&self.control, &settings.queue, &known).await?;
        let new_table = fresh
            .tables
            .iter()
            .any(|t| !known.iter().any(|there| there.table == t.table));
        self.registry = if new_table {
            load_registry(self.context, &self.control).await?
        } else {
            fresh
        };
        let copied = self.registry.tables.iter().filter(|t| t.state.is_copied());
        let followed: Vec<TableName> = copied.map(|t| t.table.clone()).collect();
        self.context.shared.followed.send_if_modified(|known| {
            let is_new = *known != followed;
            *known = followed;
            is_new
        });
        if self.paused != state.paused {
            info!(paused = state.paused, "the operator's wish is followed");
            self.paused = state.paused;
        }
        if !state.uptodate {
            pgq_node::set_consumer_uptodate(&*self.control, &settings.queue, &self.context.node.worker)
                .await?;
        }
        if !state.paused {
            self.copies
                .supervise(self.context, &self.registry, &self.follower, &self.control)
                .await?;
        }
        if self.copies.is_idle() {
            restore_foreign_keys(&self.control, &settings).await?;
        }
        self.reload_at = Instant::now() + settings.reload_period;
        Ok(())
    }

    /// Waits at this tick until the table has reached it too; from then on it is replayed with the
    /// others. The table asked when it was a few ticks behind, so this is short.
    async fn hand_over(&mut self, handover: Handover) -> Result<(), WorkerError> {
        let Handover {
            table,
            snapshot,
            caught_up,
            waits_at,
            reached,
        } = handover;
        let wanted = MergeState::WannaSync(caught_up);
        let Ok(waiting @ MergeState::DoSync(at)) = wanted.after(Step::MainWaitsAt(self.follower.tick()))
        else {
            return Ok(());
        };
        if waits_at.send(at).is_err() {
            return Ok(());
        }
        match reached.await {
            Ok(tick) => {
                let synced = waiting.after(Step::Reached(tick)).map_err(CopyError::from)?;
                self.take_over(&table, snapshot.as_ref(), wanted, synced).await?;
                info!(%table, %tick, "table is in sync");
            }
            Err(_) => warn!(%table, "the copy died while it was handed over"),
        }
        // The spool it held can go, even if no further batch comes: a full spool waits for that.
        self.unsettled = true;
        self.reload().await
    }

    /// State `ok`, and the copy's own position gone: one transaction, on the connection that holds the
    /// node's lock. Were its outcome unknown, the next replay could not start before it is known; a copy's
    /// connection could make the table `ok` at this tick when the replay is past it. An operator who
    /// changed the state meanwhile is not overruled.
    async fn take_over(
        &self,
        table: &TableName,
        snapshot: Option<&Snapshot>,
        from: MergeState,
        to: MergeState,
    ) -> Result<(), WorkerError> {
        let settings = self.settings();
        let consumer = CopyJob::consumer(&settings.job_name, table).map_err(CopyError::from)?;
        let literal = |text: Option<String>| text.map_or("null".to_owned(), |t| quote_literal(&t));
        let queue = quote_literal(settings.queue.as_str());
        let table = quote_literal(&table.to_string());
        let sql = format!(
            "begin; set local synchronous_commit = on; \
             with asked as materialized ( \
                 select 1 from londiste.table_info \
                 where queue_name = {queue} and table_name = {table} and merge_state = {} for update) \
             select londiste.local_set_table_state({queue}, {table}, {}, {}), \
                    pgq_node.unregister_consumer({queue}, {}) from asked; \
             commit",
            literal(from.stored()),
            literal(snapshot.map(ToString::to_string)),
            literal(to.stored()),
            quote_literal(consumer.as_str()),
        );
        self.control.batch_execute(&sql).await?;
        fail::fail_point!("copy::ok");
        Ok(())
    }

    /// Makes the position durable on the subscriber, then lets go of the spool before it.
    async fn settle(&mut self) -> Result<(), WorkerError> {
        let (tick, needed, lsn) = (
            self.follower.tick(),
            self.follower.needs_from(),
            self.follower.applied_lsn(),
        );
        if !self.settings().apply.synchronous_commit {
            // Any commit that waits for its own WAL waits for everything before it.
            self.control
                .batch_execute(
                    "begin; set local synchronous_commit = on; select pg_catalog.txid_current(); commit",
                )
                .await?;
        }
        self.follower.release(needed)?;
        // A copied table that is not being followed at this moment holds nothing, and needs its changes.
        let unfollowed =
            self.registry.tables.iter().any(|t| {
                t.state.is_copied() && t.state != MergeState::Ok && !self.copies.is_running(&t.table)
            });
        if !unfollowed {
            self.context.spool.release(needed).map_err(BatchError::from)?;
        }
        self.context.shared.signals.set_applied(lsn);
        self.context.shared.durable_tick.send_replace(tick);
        self.settle_at = Instant::now() + SETTLE_PERIOD;
        self.unsettled = false;
        fail::fail_point!("replay::settled");
        Ok(())
    }
}

/// Foreign keys that were put aside for a copy and whose tables are both in sync now.
async fn restore_foreign_keys(client: &Client, settings: &WorkerSettings) -> Result<(), WorkerError> {
    for key in londiste::get_valid_pending_fkeys(client, &settings.queue).await? {
        // Each step is a transaction of its own: NOT VALID first, then the check.
        loop {
            let next = londiste::restore_table_fkey(client, &key.from_table, &key.fkey_name, true).await?;
            if next.is_empty() {
                break;
            }
            client.batch_execute(&next).await?;
        }
        info!(table = %key.from_table, fkey = %key.fkey_name, "foreign key restored");
    }
    Ok(())
}

/// Leaves the reason where `status` shows it.
pub async fn store_error(settings: &WorkerSettings, text: &str) {
    let store = async {
        let client = connect_to_write(&settings.db, &settings.job_name).await?;
        let state = pgq_node::get_worker_state(&*client, &settings.queue).await?;
        if let Ok(worker) = skytide_sql::ConsumerName::new(state.worker_name) {
            pgq_node::set_consumer_error(&*client, &settings.queue, &worker, text).await?;
        }
        Ok::<_, WorkerError>(())
    };
    let _ = tokio::time::timeout(Duration::from_secs(5), store).await;
}

/// Takes back what `store_error` left, if that is still what is there.
pub async fn forget_error(settings: &WorkerSettings, text: &str) {
    let forget = async {
        let client = connect_to_write(&settings.db, &settings.job_name).await?;
        let state = pgq_node::get_worker_state(&*client, &settings.queue).await?;
        if state.cur_error.as_deref() == Some(text) {
            let clear = format!(
                "select pgq_node.set_consumer_error({}, {}, null)",
                quote_literal(settings.queue.as_str()),
                quote_literal(&state.worker_name)
            );
            client.batch_execute(&clear).await?;
        }
        Ok::<_, WorkerError>(())
    };
    let _ = tokio::time::timeout(Duration::from_secs(5), forget).await;
}

/// Whether a worker holds the lock of the queue's node in this database, wherever it runs.
pub async fn worker_runs(subscriber: &Client, queue: &QueueName) -> Result<bool, tokio_postgres::Error> {
    let row = subscriber
        .query_one(
            "select exists (select from pg_catalog.pg_locks \
                where locktype = 'advisory' and granted and objsubid = 1 \
                  and database = (select oid from pg_catalog.pg_database where datname = current_database()) \
                  and (classid::int8 << 32) | objid::int8 \
                      = pg_catalog.hashtextextended('skytide.worker.' || $1, 0))",
            &[&queue.as_str()],
        )
        .await?;
    Ok(row.get(0))
}
