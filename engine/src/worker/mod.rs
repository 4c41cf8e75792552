//! The Londiste worker: runs capture, replay and copies of one queue on one node.
//!
//! `start` checks both sides and opens the spool; capture then runs on its own, whatever happens to the
//! subscriber. `place` finds where replay begins in the spool, `replay` applies batches by the provider's `lists`
//! of tables, `copies` supervises initial copies, `provider` asks for ticks and reports the position, `events`
//! handles what the queue itself carries.

pub mod copies;
pub mod events;
pub mod figures;
mod lists;
mod place;
pub mod provider;
pub mod replay;
pub mod start;

use std::sync::Arc;
use std::time::Duration;

use skytide_sql::api::ApiError;
use skytide_sql::backoff::Backoff;
use skytide_sql::conn::{ConnectError, ConnectString};
use skytide_sql::fault::{Fault, fault_of};
use skytide_sql::{QueueName, SlotName, TableName, TickId};
use skytide_wal::walsender::WalsenderError;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::apply::{ApplyError, ApplySettings, ProviderTypes};
use crate::batch::BatchError;
use crate::capture::stream::Signals;
use crate::capture::{self, CaptureError};
use crate::causes::chain;
use crate::config::settings::ConnectText;
use crate::copy::CopyError;
use crate::daemon::health::Health;
use crate::spool::{self, SpoolError};
use crate::table::registry::RegistryError;

#[derive(Clone, Debug)]
pub struct WorkerSettings {
    pub job_name: String,
    /// The node's own database.
    pub db: ConnectString,
    /// Goes before what the provider's node says of its location.
    pub remote_extra: ConnectText,
    pub queue: QueueName,
    pub slot: Option<SlotName>,
    pub spool: spool::Settings,
    pub apply: ApplySettings,
    /// Ticks are joined into one batch up to so many rows.
    pub batch_rows: u64,
    /// Tables copied at the same time.
    pub parallel_copies: usize,
    /// Connections for one table's copy.
    pub copy_connections: usize,
    /// How long a copy waits for a lock on its table.
    pub lock_timeout: Duration,
    /// Keep the slot at what the subscriber has on disk, not the spool.
    pub confirm_applied: bool,
    pub status_interval: Duration,
    pub sync_interval: Duration,
    /// Never ask for ticks more often.
    pub tick_request_interval: Duration,
    /// How often the provider hears of our position.
    pub watermark_period: Duration,
    /// How often table states are read again.
    pub reload_period: Duration,
    /// Time between two lines of figures.
    pub stats_period: Option<Duration>,
}

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WorkerError {
    #[error("{what}")]
    Setup { what: String, fix: String },
    #[error("another worker already runs for queue {queue} on this node")]
    Busy { queue: QueueName },
    /// A commit of a lost connection came through after all, or somebody else moved it: look anew.
    #[error("the position was moved to tick {to} while tick {from} was completed")]
    Moved { to: TickId, from: TickId },
    /// Not a failure: the worker must begin anew with other settings of the stream.
    #[error("the stream must start again: {why}")]
    Restart { why: String },
    #[error("start the capture thread")]
    Thread(#[source] std::io::Error),
    #[error("event {kind} of the queue cannot be applied: {what}")]
    Event { kind: String, what: String },
    #[error("capture")]
    Capture(#[from] CaptureError),
    #[error("apply")]
    Apply(#[from] ApplyError),
    #[error("batches")]
    Batch(#[from] BatchError),
    #[error("copy")]
    Copy(#[from] CopyError),
    #[error("spool")]
    Spool(#[from] SpoolError),
    #[error("table list")]
    Registry(#[from] RegistryError),
    #[error("connect")]
    Connect(#[from] ConnectError),
    #[error("replication connection")]
    Walsender(#[from] WalsenderError),
    #[error(transparent)]
    Api(#[from] ApiError),
    #[error(transparent)]
    Sql(#[from] tokio_postgres::Error),
}

impl WorkerError {
    pub fn fault(&self) -> Fault {
        match self {
            WorkerError::Setup { .. } | WorkerError::Restart { .. } | WorkerError::Event { .. } => {
                Fault::Operator
            }
            WorkerError::Busy { .. } | WorkerError::Moved { .. } | WorkerError::Thread(_) => Fault::Retry,
            WorkerError::Capture(e) => e.fault(),
            WorkerError::Apply(e) => e.fault(),
            WorkerError::Batch(BatchError::Spool(e)) | WorkerError::Spool(e) => e.fault(),
            WorkerError::Batch(_) => Fault::Operator,
            WorkerError::Copy(e) => e.fault(),
            WorkerError::Registry(RegistryError::Api(e)) | WorkerError::Api(e) => e.fault(),
            WorkerError::Registry(RegistryError::Sql(e)) => fault_of(e),
            WorkerError::Registry(_) => Fault::Operator,
            WorkerError::Connect(e) => e.fault(),
            WorkerError::Walsender(e) => e.fault(),
            WorkerError::Sql(e) => fault_of(e),
        }
    }

    pub fn hint(&self) -> Option<String> {
        match self {
            WorkerError::Setup { fix, .. } => Some(fix.clone()),
            WorkerError::Capture(e) => e.hint(),
            WorkerError::Batch(
                BatchError::TickTooOld { .. } | BatchError::TickGap { .. } | BatchError::Inverted { .. },
            ) => Some("copy the tables again: skytide londiste CONF resync --all".into()),
            _ => None,
        }
    }
}

/// How long a batch that is being applied may take to end when the worker stops; after that it is given up,
/// which loses nothing.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// What the parts of a worker share.
pub struct Shared {
    pub settings: WorkerSettings,
    pub signals: Arc<Signals>,
    /// The spool has something new to read.
    pub published: Notify,
    /// A tick is wanted on the provider.
    pub tick_wanted: Notify,
    /// Where the main replay is.
    pub main_tick: watch::Sender<TickId>,
    /// The same, once it is on the subscriber's disk: what the provider may be told.
    pub durable_tick: watch::Sender<TickId>,
    /// Tables that have been copied, by their names in the set.
    pub followed: watch::Sender<Vec<TableName>>,
    pub figures: figures::Figures,
}

/// Runs the worker of the node until cancelled.
///
/// # Errors
/// What waiting cannot mend. Lost connections, restarts and crashes of either server are waited out.
pub async fn run(
    settings: WorkerSettings,
    health: Health,
    cancel: CancellationToken,
) -> Result<(), WorkerError> {
    loop {
        match Box::pin(run_once(&settings, &health, &cancel)).await {
            Err(WorkerError::Restart { why }) => info!(why, "the stream starts again"),
            ended => return ended,
        }
    }
}

async fn run_once(
    settings: &WorkerSettings,
    health: &Health,
    cancel: &CancellationToken,
) -> Result<(), WorkerError> {
    let started = match retrying("start", cancel, Duration::ZERO, async || {
        let started = start::start(settings).await;
        if let Err(WorkerError::Spool(e)) = &started
            && e.is_space()
        {
            // This one may take long, and needs a person.
            replay::store_error(settings, &chain(e)).await;
        }
        started
    })
    .await
    {
        Ok(Some(started)) => started,
        Ok(None) => return Ok(()),
        Err(e) => {
            stopped(settings, &e).await;
            return Err(e);
        }
    };
    let start::Started {
        node,
        capture,
        writer,
        spool,
        anchor,
    } = match started {
        start::Role::Leaf(started) => *started,
        start::Role::Root(node) => {
            health.ready();
            return provider::run_root(settings, &node, cancel.clone()).await;
        }
    };
    let shared = Arc::new(Shared {
        signals: Arc::new(Signals::default()),
        published: Notify::new(),
        tick_wanted: Notify::new(),
        main_tick: watch::Sender::new(TickId::new(0)),
        durable_tick: watch::Sender::new(TickId::new(0)),
        followed: watch::Sender::new(Vec::new()),
        figures: figures::Figures::default(),
        settings: settings.clone(),
    });
    let listener = Arc::clone(&shared);
    spool.on_publish(Box::new(move || listener.published.notify_one()));

    // Whatever ends first ends all.
    let all = cancel.child_token();
    let mut capturing =
        capture::stream::start(capture.clone(), writer, Arc::clone(&shared.signals), all.clone())
            .map_err(WorkerError::Thread)?;
    let mut provider_side = tokio::spawn(provider::run(
        Arc::clone(&shared),
        node.clone(),
        capture.provider.clone(),
        capture.slot.clone(),
        capture.publications.tables.clone(),
        all.clone(),
    ));
    let figures = tokio::spawn(figures::watch(
        Arc::clone(&shared),
        Arc::clone(&spool),
        health.clone(),
        all.clone(),
    ));
    let types = ProviderTypes::of(capture.provider.clone(), settings.job_name.clone());
    let context = replay::Context {
        shared: Arc::clone(&shared),
        node,
        capture,
        spool,
        anchor,
        provider_names: tokio::sync::Mutex::default(),
        types: Arc::new(types),
    };
    let replaying = retrying("replay", &all, STOP_GRACE, async || {
        replay::run(&context, &all).await
    });
    tokio::pin!(replaying);
    let ended = tokio::select! {
        captured = &mut capturing => captured.expect("capture's thread says how it ended").map_err(WorkerError::from),
        replayed = &mut replaying => replayed.map(|_| ()),
        // Its peaceful end, at a stop, cuts nobody's grace short.
        Ok(Err(unpublished)) = &mut provider_side => Err(unpublished),
    };
    all.cancel();
    if !capturing.is_terminated() {
        let _ = capturing.await;
    }
    if !provider_side.is_finished() {
        let _ = provider_side.await;
    }
    let _ = figures.await;
    if let Err(e) = &ended
        && !matches!(e, WorkerError::Restart { .. })
    {
        stopped(settings, e).await;
    }
    ended
}

/// Says why, in the log and where `status` finds it.
async fn stopped(settings: &WorkerSettings, error: &WorkerError) {
    error!(queue = %settings.queue, error = %chain(error), "worker stops");
    replay::store_error(settings, &chain(error)).await;
}

/// Runs `attempt` until it succeeds, is cancelled (`None`), or fails for good. An attempt that hears of the
/// cancelling itself has `grace` to come to its end.
async fn retrying<T>(
    what: &'static str,
    cancel: &CancellationToken,
    grace: Duration,
    mut attempt: impl AsyncFnMut() -> Result<T, WorkerError>,
) -> Result<Option<T>, WorkerError> {
    let mut backoff = Backoff::default();
    loop {
        let started = tokio::time::Instant::now();
        let stopped = async {
            cancel.cancelled().await;
            tokio::time::sleep(grace).await;
        };
        let failed = tokio::select! {
            done = attempt() => match done {
                Ok(done) => return Ok(Some(done)),
                Err(e) if e.fault() == Fault::Retry => e,
                Err(e) => return Err(e),
            },
            () = stopped => return Ok(None),
        };
        if started.elapsed() > Duration::from_secs(60) {
            backoff.reset();
        }
        let pause = backoff.next_delay();
        metrics::counter!(crate::metrics::RECONNECTS).increment(1);
        warn!(error = %chain(&failed), "{what} failed, trying again in {pause:?}");
        tokio::select! {
            () = cancel.cancelled() => return Ok(None),
            () = tokio::time::sleep(pause) => info!("{what} again"),
        }
    }
}
