//! Checks both sides, makes slot and publications, opens the spool; refuses what would lose changes.

use std::sync::Arc;

use skytide_sql::api::pgq_node;
use skytide_sql::conn::{Session, connect_to_write};
use skytide_sql::names::BadName;
use skytide_sql::{ConsumerName, Lsn, NodeName, QueueName, SlotName, Xid};
use skytide_wal::walsender::{Client, LogicalSlot, Mode};
use tracing::{info, warn};

use super::{WorkerError, WorkerSettings};
use crate::batch::Follower;
use crate::capture::CaptureSettings;
use crate::capture::slot::{self, Publications, identifier_part};
use crate::spool::{self, Identity, Spool, Writer};
use crate::table::Registry;

/// The node this worker serves.
#[derive(Clone, Debug)]
pub struct Node {
    pub name: NodeName,
    pub worker: ConsumerName,
    pub provider: NodeName,
    /// `server_version_num` of the provider.
    pub provider_version: u32,
}

pub struct Started {
    pub node: Node,
    pub capture: CaptureSettings,
    pub writer: Writer,
    pub spool: Arc<Spool>,
    /// The first tick whose snapshot lies wholly after this transaction has a complete batch.
    pub anchor: Xid,
}

pub enum Role {
    Leaf(Box<Started>),
    Root(Node),
}

fn setup(what: impl Into<String>, fix: impl Into<String>) -> WorkerError {
    WorkerError::Setup {
        what: what.into(),
        fix: fix.into(),
    }
}

/// The configured slot, or the default one.
pub fn slot_name(settings: &WorkerSettings, node: &NodeName) -> Result<SlotName, WorkerError> {
    if let Some(slot) = &settings.slot {
        return Ok(slot.clone());
    }
    default_slot_name(&settings.queue, node)
        .map_err(|e| setup(e.to_string(), "set slot_name in the configuration"))
}

/// One slot per queue and node.
pub fn default_slot_name(queue: &QueueName, node: &NodeName) -> Result<SlotName, BadName> {
    SlotName::new(format!("skytide_{}", identifier_part(&format!("{queue}_{node}"))))
}

pub async fn start(settings: &WorkerSettings) -> Result<Role, WorkerError> {
    let subscriber = connect_to_write(&settings.db, &settings.job_name).await?;
    let state = pgq_node::get_worker_state(&*subscriber, &settings.queue)
        .await
        .map_err(|e| match e.code() {
            Some(404) => setup(
                format!("this database has no node of queue {}", settings.queue),
                "make one first: skytide londiste CONF create-leaf NAME CONNSTR --provider=CONNSTR",
            ),
            _ => e.into(),
        })?;
    let bad_name = |e: BadName| setup(e.to_string(), "look at pgq_node.node_info");
    let node = Node {
        name: NodeName::new(state.node_name).map_err(bad_name)?,
        worker: ConsumerName::new(state.worker_name).map_err(bad_name)?,
        provider: NodeName::new(state.provider_node).map_err(bad_name)?,
        provider_version: 0,
    };
    match state.node_type.as_str() {
        "root" => return Ok(Role::Root(node)),
        "leaf" => {}
        other => {
            return Err(setup(
                format!("node {} is a {other}", node.name),
                "only root and leaf nodes are supported by this version",
            ));
        }
    }
    let location = crate::config::connect_string(&state.provider_location, settings.remote_extra.as_str())
        .map_err(|e| {
            setup(
                format!("location of node {}: {e}", node.provider),
                "correct it with register_location, or remote_extra_connstr in the configuration",
            )
        })?;
    let provider = connect_to_write(&location, &settings.job_name).await?;
    slot::check_server(&provider).await?;
    let publications = Publications::of(&settings.queue);
    slot::ensure_publications(&provider, &publications, &settings.queue).await?;
    let row = provider
        .query_opt(
            "select queue_id, current_setting('server_version_num')::int4, current_database()::text \
             from pgq.queue where queue_name = $1",
            &[&settings.queue.as_str()],
        )
        .await?;
    let Some(row) = row else {
        return Err(setup(
            format!("the provider {} has no queue {}", node.provider, settings.queue),
            "make the root first: skytide londiste CONF create-root NAME CONNSTR",
        ));
    };
    let (queue_id, version, database): (i32, i32, String) = (row.get(0), row.get(1), row.get(2));
    let node = Node {
        provider_version: u32::try_from(version).unwrap_or(0),
        ..node
    };
    let slot = slot_name(settings, &node.name)?;
    let binary = slot::binary_is_portable(&provider, &publications.tables).await?
        && slot::binary_fits(&provider, &subscriber, &settings.queue).await?;
    let capture = CaptureSettings {
        provider: location,
        application_name: settings.job_name.clone(),
        slot: slot.clone(),
        publications,
        queue_id,
        binary,
        status_interval: settings.status_interval,
        sync_interval: settings.sync_interval,
        wait_for_apply: settings.confirm_applied,
    };

    let registry = Registry::load(&subscriber, &settings.queue, &[]).await?;
    let (writer, spool) = open_spool(settings, &capture, &database, &provider, registry.any_copied()).await?;
    // Assigned after the slot was there: whoever ends after it is in the stream.
    let row = provider
        .query_one("select pg_catalog.txid_current()", &[])
        .await?;
    let anchor = Xid::new(row.get::<_, i64>(0).unsigned_abs());
    Ok(Role::Leaf(Box::new(Started {
        node,
        capture,
        writer,
        spool,
        anchor,
    })))
}

async fn open_spool(
    settings: &WorkerSettings,
    capture: &CaptureSettings,
    database: &str,
    provider: &Session,
    copied: bool,
) -> Result<(Writer, Arc<Spool>), WorkerError> {
    let mut replication = Client::connect(&capture.provider, Mode::Logical, &settings.job_name).await?;
    let system = replication.identify_system().await?;
    let identity = Identity {
        system_id: system.system_id,
        timeline: system.timeline.as_u32(),
        database: database.to_owned(),
        slot: capture.slot.clone(),
        queue: settings.queue.clone(),
    };
    let found = slot::find(provider, &capture.slot).await?;
    let resync = "copy the tables again: skytide londiste CONF resync --all, then start the worker";
    let (mut writer, mut spool) = match Writer::open(settings.spool.clone(), identity.clone()) {
        // With nothing copied, nothing hangs on an old spool.
        Err(e) if e.is_other_server() && !copied => {
            warn!(error = %e, "starting a new spool");
            spool::remove(&settings.spool.dir)?;
            Writer::open(settings.spool.clone(), identity.clone())?
        }
        opened => opened?,
    };
    let spool_is_empty = !writer.end_lsn().is_valid();
    let behind = found
        .as_ref()
        .is_some_and(|s| s.confirmed_flush_lsn > writer.end_lsn());
    let rewound = !spool_is_empty && is_rewound(provider, capture.queue_id, system.flush_lsn, &spool).await?;
    match &found {
        Some(_) if rewound && copied => {
            return Err(setup(
                "the provider was restored from a state before the last tick that was read of it, or is another copy \
                 of that server"
                    .to_owned(),
                resync,
            ));
        }
        Some(_) if spool_is_empty && copied && !settings.confirm_applied => {
            return Err(setup(
                format!(
                    "the spool in {} is empty, but tables depend on it",
                    settings.spool.dir.display()
                ),
                format!(
                    "if spool_dir is wrong, or its disk is not mounted, mend that and start the worker again; \
                     only if the spool is lost, {resync}"
                ),
            ));
        }
        Some(_) if !spool_is_empty && (behind || rewound) && !copied => {
            drop((writer, spool));
            spool::remove(&settings.spool.dir)?;
            (writer, spool) = Writer::open(settings.spool.clone(), identity)?;
        }
        None if copied => {
            return Err(setup(
                format!("slot {} is gone from the provider", capture.slot),
                resync,
            ));
        }
        None => {
            if !spool_is_empty {
                drop((writer, spool));
                spool::remove(&settings.spool.dir)?;
                (writer, spool) = Writer::open(settings.spool.clone(), identity)?;
            }
            info!(slot = %capture.slot, "creating the slot; this waits for transactions that are running now");
            slot::hold_publications(provider).await?;
            replication
                .create_logical_slot(&LogicalSlot::pgoutput(&capture.slot))
                .await?;
            slot::allow_publication_changes(provider).await?;
        }
        Some(_) => {}
    }
    Ok((writer, spool))
}

/// A server whose files were put back has the identity it had, but what it writes from there on is not what it wrote
/// before: seen by the end of its WAL, or by the last tick, until that is so old that it was removed.
async fn is_rewound(
    provider: &Session,
    queue_id: i32,
    flushed: Lsn,
    spool: &Arc<Spool>,
) -> Result<bool, WorkerError> {
    if flushed < spool.durable_lsn() {
        return Ok(true);
    }
    let Some(last) = spool.last_tick() else {
        return Ok(false);
    };
    let row = provider
        .query_one(
            "select (select t.tick_snapshot::text from pgq.tick t where t.tick_queue = $1 and t.tick_id = $2), \
                    coalesce((select max(t.tick_id) from pgq.tick t where t.tick_queue = $1), 0)",
            &[&queue_id, &last.get()],
        )
        .await?;
    let (snapshot, newest): (Option<&str>, i64) = (row.get(0), row.get(1));
    let Some(snapshot) = snapshot else {
        return Ok(newest < last.get());
    };
    let read = Follower::at_tick(spool, last)?;
    Ok(read.is_some_and(|read| read.snapshot().to_string() != snapshot))
}
