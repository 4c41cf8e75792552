//! A timeline that is given up: of a server that was restored and promoted for a rehearsal, and archived into the
//! cluster's stores. While they know it, the server that it left is refused ([`crate::succession`]).

use std::sync::Arc;

use super::retention::{self, Purge};
use super::stores::{Stores, list};
use super::{BackupError, Summary};
use crate::store::{Store, layout};
use crate::succession::{descendants, history_in};
use crate::{TimelineId, WalFileName};

/// What goes from a store with the timeline: its WAL and the backups that were taken on it. `None`: the store has nothing
/// of it.
pub async fn plan(store: &Arc<dyn Store>, timeline: TimelineId) -> Result<Option<Purge>, BackupError> {
    let refused = |what: String| BackupError::Undroppable {
        timeline,
        location: store.location().to_owned(),
        what,
    };
    let listed = store.list(&layout::timeline(timeline)).await?;
    let partials = store.partials(&layout::partials(timeline)).await?;
    let history = history_in(&**store, timeline).await?;
    match &history {
        Some(history) if history.ancestors().is_empty() => {
            return Err(refused("it is the cluster's first one".into()));
        }
        None if listed.is_empty() && partials.is_empty() => return Ok(None),
        None => {
            return Err(refused(
                "its history is not there, and it may be the first one".into(),
            ));
        }
        Some(_) => {}
    }
    if let Some(child) = descendants(&**store, timeline).await?.first() {
        let child = child.timeline();
        return Err(refused(format!(
            "timeline {child} comes from it: drop that one first"
        )));
    }
    let alone = Stores::new(vec![store.clone()], 1);
    let backups = list(&alone)
        .await?
        .into_iter()
        .collect::<Result<Vec<Summary>, _>>()?;
    let (backups, kept) = backups
        .into_iter()
        .partition(|backup| backup.timeline == timeline.as_u32());
    Ok(Some(Purge {
        kept,
        backups,
        wal_bytes: listed.iter().map(|listed| listed.bytes).sum(),
        wal: listed.into_iter().map(|listed| listed.name).collect(),
        partials: partials.into_iter().map(|listed| listed.name).collect(),
        ..Purge::default()
    }))
}

/// Carries a plan out. The history goes last: until then the command can be given again.
pub async fn carry_out(store: &dyn Store, timeline: TimelineId, purge: &Purge) -> Result<(), BackupError> {
    retention::carry_out(store, purge).await?;
    let history = layout::object_of(WalFileName::History(timeline));
    Ok(store.delete(&history).await?)
}
