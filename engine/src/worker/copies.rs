//! Supervises initial copies: starts them, starts them again when they die, hands tables over.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use skytide_sql::api::pgq_node;
use skytide_sql::backoff::Backoff;
use skytide_sql::conn::connect_to_write;
use skytide_sql::fault::Fault;
use skytide_sql::{NodeName, TableName, TickId};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::replay::Context;
use super::{WorkerError, WorkerSettings};
use crate::batch::{BatchError, Follower};
use crate::causes::chain;
use crate::copy::job::CopySettings;
use crate::copy::{CopyError, CopyJob, Handover, Progress};
use crate::spool::Hold;
use crate::table::{LocalTable, MergeState, Registry};

struct Running {
    progress: Arc<Progress>,
    abort: AbortHandle,
    /// Keeps the spool from where the copy began until it is known how it ended: the state of the table
    /// then says whether anything there is still needed.
    _hold: Hold,
}

/// The copies of one worker.
pub struct Copies {
    running: HashMap<TableName, Running>,
    tasks: JoinSet<(TableName, Result<(), CopyError>)>,
    /// Tables whose copy failed, and when it may start again.
    resting: HashMap<TableName, (Backoff, Instant)>,
    sender: mpsc::Sender<Handover>,
    pub handovers: mpsc::Receiver<Handover>,
    cancel: CancellationToken,
}

impl Copies {
    pub fn new(cancel: &CancellationToken) -> Copies {
        let (sender, handovers) = mpsc::channel(8);
        Copies {
            running: HashMap::new(),
            tasks: JoinSet::new(),
            resting: HashMap::new(),
            sender,
            handovers,
            cancel: cancel.child_token(),
        }
    }

    pub fn progress(&self) -> impl Iterator<Item = (&TableName, &Arc<Progress>)> {
        self.running
            .iter()
            .map(|(table, running)| (table, &running.progress))
    }

    pub fn is_running(&self, table: &TableName) -> bool {
        self.running.contains_key(table)
    }

    pub fn is_idle(&self) -> bool {
        self.running.is_empty()
    }

    /// Starts what is due; stops copies of tables that were removed or reset.
    pub async fn supervise(
        &mut self,
        context: &Context,
        registry: &Registry,
        main: &Follower,
        client: &tokio_postgres::Client,
    ) -> Result<(), WorkerError> {
        self.running.retain(|name, running| {
            let wanted = registry
                .tables
                .iter()
                .any(|t| t.table == *name && t.state != MergeState::Ok);
            // Between two steps the registry may be a moment old: only a table that is gone or was set
            // back to "never copied" after its copy began is stopped by aborting.
            let gone = !registry.tables.iter().any(|t| t.table == *name);
            if gone {
                running.abort.abort();
            }
            wanted || !gone
        });
        let settings = &context.shared.settings;
        client
            .execute(FORGET_GONE, &[&settings.queue.as_str(), &settings.job_name])
            .await?;
        for table in &registry.tables {
            if self.running.len() >= context.shared.settings.parallel_copies {
                break;
            }
            if table.state == MergeState::Ok || self.running.contains_key(&table.table) {
                continue;
            }
            if self
                .resting
                .get(&table.table)
                .is_some_and(|(_, until)| *until > Instant::now())
            {
                continue;
            }
            self.start(context, table, main, client).await?;
        }
        Ok(())
    }

    async fn start(
        &mut self,
        context: &Context,
        table: &LocalTable,
        main: &Follower,
        client: &tokio_postgres::Client,
    ) -> Result<(), WorkerError> {
        let settings = &context.shared.settings;
        let follower = if table.state.is_copied() {
            let consumer =
                CopyJob::consumer(&settings.job_name, &table.table).map_err(|e| WorkerError::Setup {
                    what: e.to_string(),
                    fix: "choose a shorter job_name".into(),
                })?;
            let position = pgq_node::get_consumer_info(client, &settings.queue)
                .await?
                .into_iter()
                .find(|c| c.consumer_name == consumer.as_str())
                .map(|c| TickId::new(c.last_tick_id));
            let place = position
                .map(|tick| Follower::at_tick(&context.spool, tick))
                .transpose();
            match place {
                Ok(Some(Some(follower))) => follower,
                lost => {
                    warn!(
                        table = %table.table,
                        found = ?lost.err().map(|e| e.to_string()),
                        "the spool does not reach back to the table's copy: it is copied again"
                    );
                    skytide_sql::api::londiste::local_set_table_state(
                        client,
                        &settings.queue,
                        &table.table,
                        None,
                        None,
                    )
                    .await?;
                    return Ok(());
                }
            }
        } else {
            main.fork()?
        };
        let progress = Arc::new(Progress::default());
        let job = CopyJob {
            settings: CopySettings {
                queue: settings.queue.clone(),
                job_name: settings.job_name.clone(),
                worker: context.node.worker.clone(),
                provider: context.capture.provider.clone(),
                provider_node: context.node.provider.clone(),
                provider_version: context.node.provider_version,
                subscriber: settings.db.clone(),
                publication: context.capture.publications.tables.clone(),
                binary: context.capture.binary,
                connections: settings.copy_connections,
                lock_timeout: settings.lock_timeout,
                apply: context.apply_settings(),
                batch_rows: settings.batch_rows,
            },
            table: table.table.clone(),
            source: table.source.clone(),
            source_oid: table.source_oid,
            dest: table.dest.clone(),
            state: table.state,
            skip_truncate: table.skip_truncate,
            dropped_ddl: table.dropped_ddl.clone(),
            snapshot: table.snapshot.clone(),
            progress: Arc::clone(&progress),
            main_tick: context.shared.main_tick.subscribe(),
            handovers: self.sender.clone(),
        };
        let hold = context
            .spool
            .hold(follower.needs_from())
            .map_err(BatchError::from)?;
        info!(table = %table.table, state = %table.state, "copy starts");
        let (name, cancel) = (table.table.clone(), self.cancel.clone());
        let (provider, from) = (context.node.provider.clone(), follower.tick());
        let settings = settings.clone();
        let abort = self.tasks.spawn(async move {
            let done = Box::pin(job.run(follower, cancel)).await;
            if let Err(e) = &done {
                store_failure(&settings, (&provider, from), &name, e).await;
            }
            (name, done)
        });
        self.running.insert(
            table.table.clone(),
            Running {
                progress,
                abort,
                _hold: hold,
            },
        );
        Ok(())
    }

    /// Takes note of copies that ended; true if there were any.
    pub fn reap(&mut self) -> Result<bool, WorkerError> {
        let mut any = false;
        while let Some(ended) = self.tasks.try_join_next() {
            any = true;
            let (table, done) = match ended {
                Ok(ended) => ended,
                // Aborted, and forgotten then.
                Err(e) if e.is_cancelled() => continue,
                Err(e) => {
                    let of_it = |(_, running): &(&TableName, &Running)| running.abort.id() == e.id();
                    let Some(table) = self.running.iter().find(of_it).map(|(t, _)| t.clone()) else {
                        continue;
                    };
                    (
                        table.clone(),
                        Err(CopyError::Table {
                            table,
                            what: e.to_string(),
                        }),
                    )
                }
            };
            self.running.remove(&table);
            match done {
                Ok(()) => {
                    self.resting.remove(&table);
                }
                Err(CopyError::Cancelled) => {}
                Err(e @ CopyError::NeedsText { .. }) => {
                    return Err(WorkerError::Restart { why: e.to_string() });
                }
                Err(e) => {
                    let (backoff, until) = self
                        .resting
                        .entry(table.clone())
                        .or_insert_with(|| (Backoff::default(), Instant::now()));
                    let pause = backoff.next_delay();
                    *until = Instant::now() + pause;
                    if e.fault() == Fault::Retry {
                        warn!(%table, error = %chain(&e), "copy failed, trying again in {pause:?}");
                    } else {
                        error!(%table, error = %chain(&e), "copy failed, trying again in {pause:?}");
                    }
                }
            }
        }
        metrics::gauge!(crate::metrics::COPYING_TABLES).set(self.running.len() as f64);
        Ok(any)
    }

    /// Stops all copies and waits for them.
    pub async fn stop(&mut self) {
        self.cancel.cancel();
        while self.tasks.join_next().await.is_some() {}
    }
}

/// Takes away what copies have left of tables that are not followed any more. $1 queue, $2 the worker's job.
const FORGET_GONE: &str = "
    select pgq_node.unregister_consumer(s.queue_name, s.consumer_name)
      from pgq_node.local_state s
     where s.queue_name = $1 and starts_with(s.consumer_name, $2 || '.copy.')
       and not exists (select from londiste.table_info t
                        where t.queue_name = s.queue_name and t.local
                          and s.consumer_name = $2 || '.copy.' || t.table_name)";

/// What `pgq_node` answers of a consumer that is not registered.
const NO_CONSUMER: i32 = 101;

async fn is_followed(
    client: &tokio_postgres::Client,
    settings: &WorkerSettings,
    table: &TableName,
) -> Result<bool, tokio_postgres::Error> {
    let sql =
        "select exists (select from londiste.table_info where queue_name = $1 and table_name = $2 and local)";
    let row = client
        .query_one(sql, &[&settings.queue.as_str(), &table.to_string()])
        .await?;
    row.try_get(0)
}

/// Leaves the reason with the copy's consumer, where `status` shows it until the table is in sync.
async fn store_failure(
    settings: &WorkerSettings,
    (provider, tick): (&NodeName, TickId),
    table: &TableName,
    error: &CopyError,
) {
    if matches!(error, CopyError::Cancelled | CopyError::NeedsText { .. }) {
        return;
    }
    let Ok(consumer) = CopyJob::consumer(&settings.job_name, table) else {
        return;
    };
    let store = async {
        let client = connect_to_write(&settings.db, &settings.job_name).await?;
        let error = chain(error);
        let noted = pgq_node::set_consumer_error(&*client, &settings.queue, &consumer, &error).await?;
        // It failed before its first step; or the table is not followed any more.
        if noted.code == NO_CONSUMER && is_followed(&client, settings, table).await? {
            pgq_node::register_consumer(&*client, &settings.queue, &consumer, provider, tick).await?;
            pgq_node::set_consumer_error(&*client, &settings.queue, &consumer, &error).await?;
        }
        Ok::<_, WorkerError>(())
    };
    let _ = tokio::time::timeout(Duration::from_secs(5), store).await;
}
