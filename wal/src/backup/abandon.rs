//! A timeline that is given up: of a server that was restored and promoted for a trial, and archived into the
//! cluster's stores. While they know it, the server that it left is refused ([`crate::succession`]).
//!
//! What the living server's own timeline comes from is never given up, and nothing is where that cannot be told.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::claim::Unfinished;
use super::retention::{self, Purge};
use super::stores::{Stores, list};
use super::{BackupError, Summary, unix_now};
use crate::store::identity::Identity;
use crate::store::{ObjectName, Prefix, Store, StoreError, layout};
use crate::succession::history_in;
use crate::{HistoryFile, TimelineId, WalFileName};

/// The cluster's own server.
#[derive(Debug, Clone)]
pub struct Living {
    pub system_id: u64,
    /// How its timeline came to be.
    pub path: HistoryFile,
}

/// What goes from one store.
#[derive(Debug)]
pub struct Abandoned {
    /// The timeline's WAL, and the backups that were taken on it.
    pub purge: Purge,
    /// Its history file, and its bytes.
    pub history: Option<(ObjectName, u64)>,
}

impl Abandoned {
    fn is_empty(&self) -> bool {
        let Purge {
            backups,
            wal,
            partials,
            ..
        } = &self.purge;
        self.history.is_none() && backups.is_empty() && wal.is_empty() && partials.is_empty()
    }
}

/// What goes from each of the stores; `None` if it has nothing of the timeline. All of them are asked first.
pub async fn plan(
    stores: &[Arc<dyn Store>],
    timeline: TimelineId,
    living: &Living,
) -> Result<Vec<Option<Abandoned>>, BackupError> {
    let refused = |what: String| BackupError::Undroppable { timeline, what };
    let server = living.path.timeline();
    if server == timeline {
        return Err(refused("the server in master_db is on it".into()));
    }
    if living.path.range_of(timeline).is_some() {
        return Err(refused(format!(
            "the server in master_db is on timeline {server}, which comes from it"
        )));
    }
    let mut newer = BTreeSet::new();
    for store in stores {
        if let Some(found) = Identity::read(&**store).await? {
            let own = Identity {
                system_id: living.system_id,
                ..found
            };
            own.expect(store.location(), found)?;
        }
        if let Some(label) = Unfinished::of(&**store, unix_now()).await?.alive() {
            return Err(refused(format!(
                "backup {label} is being taken in store {}",
                store.location()
            )));
        }
        newer.extend(
            timelines_in(&**store)
                .await?
                .into_iter()
                .filter(|found| *found > timeline),
        );
    }
    newer.retain(|found| living.path.range_of(*found).is_none());
    for child in newer {
        let history = history_in_any(stores, child).await?;
        let Some(history) = history else {
            return Err(refused(format!(
                "timeline {child} is newer, no store has its history that can be read, and it may come from it"
            )));
        };
        if history.range_of(timeline).is_some() {
            return Err(refused(format!(
                "timeline {child} comes from it: drop that one first"
            )));
        }
    }
    let mut plans = Vec::new();
    for store in stores {
        let abandoned = of_store(store, timeline).await?;
        plans.push(Some(abandoned).filter(|abandoned| !abandoned.is_empty()));
    }
    Ok(plans)
}

async fn of_store(store: &Arc<dyn Store>, timeline: TimelineId) -> Result<Abandoned, BackupError> {
    let listed = store.list(&layout::timeline(timeline)).await?;
    let partials = store.partials(&layout::partials(timeline)).await?;
    let name = layout::object_of(WalFileName::History(timeline));
    let histories = store.list(&layout::histories()).await?;
    let history = histories.into_iter().find(|listed| listed.name == name);
    let alone = Stores::new(vec![store.clone()], 1);
    let backups = list(&alone)
        .await?
        .into_iter()
        .collect::<Result<Vec<Summary>, _>>()?;
    let (backups, kept) = backups
        .into_iter()
        .partition(|backup| backup.timeline == timeline.as_u32());
    Ok(Abandoned {
        purge: Purge {
            kept,
            backups,
            wal_bytes: listed.iter().map(|listed| listed.bytes).sum(),
            wal: listed.into_iter().map(|listed| listed.name).collect(),
            partials: partials.into_iter().map(|listed| listed.name).collect(),
            ..Purge::default()
        },
        history: history.map(|listed| (listed.name, listed.bytes)),
    })
}

/// All timelines that a store has WAL or a history of.
async fn timelines_in(store: &dyn Store) -> Result<BTreeSet<TimelineId>, StoreError> {
    let mut files = store.list(&layout::histories()).await?;
    files.extend(store.list(&layout::wal_files()).await?);
    let files = files
        .iter()
        .filter_map(|listed| layout::wal_file_of(&listed.name));
    let partials = store.partials(&Prefix::default()).await?;
    let partials = partials
        .iter()
        .filter_map(|listed| layout::segment_of(&listed.name));
    let files = files.chain(partials.map(WalFileName::Partial));
    Ok(files.map(WalFileName::timeline).collect())
}

async fn history_in_any(
    stores: &[Arc<dyn Store>],
    timeline: TimelineId,
) -> Result<Option<HistoryFile>, StoreError> {
    for store in stores {
        if let Some(history) = history_in(&**store, timeline).await? {
            return Ok(Some(history));
        }
    }
    Ok(None)
}

/// Carries out what was planned for a store. The history goes last: until then the command can be given again.
pub async fn carry_out(store: &dyn Store, abandoned: &Abandoned) -> Result<(), BackupError> {
    retention::remove_backups(store, &abandoned.purge, &BTreeSet::new()).await?;
    retention::remove_wal(store, &abandoned.purge).await?;
    fail::fail_point!("abandon::history");
    if let Some((history, _)) = &abandoned.history {
        store.delete(history).await?;
    }
    Ok(())
}
