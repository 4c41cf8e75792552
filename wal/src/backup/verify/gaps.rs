//! Whether the WAL of a store leads on from its backups, on every timeline: by the names alone.

use std::collections::BTreeSet;
use std::sync::Arc;

use skytide_sql::Lsn;

use super::{Report, problem};
use crate::backup::plan::history;
use crate::backup::stores::Stores;
use crate::backup::wal::Inventory;
use crate::backup::{BackupError, Summary};
use crate::restore::Restorer;
use crate::store::Store;
use crate::{SegmentName, SegmentSize, TimelineId, WalFileName};

/// Names each gap once, with the first backup that it cuts off.
pub(super) async fn find(
    alone: &Stores,
    store: &Arc<dyn Store>,
    backups: &[Summary],
    report: &mut Report,
) -> Result<(), BackupError> {
    let inventory = Inventory::of(alone).await?;
    let restorer = Restorer::new(vec![store.clone()], None);
    let mut timelines: BTreeSet<TimelineId> = inventory.timelines().collect();
    timelines.extend(
        backups
            .iter()
            .filter_map(|backup| TimelineId::new(backup.timeline)),
    );
    let mut found: BTreeSet<(SegmentName, SegmentName)> = BTreeSet::new();
    for timeline in timelines {
        // Without its history nobody knows the way there.
        let history = match history(&restorer, timeline).await {
            Ok(history) => history,
            Err(error @ BackupError::Store(_)) => return Err(error),
            Err(_) => {
                let name = WalFileName::History(timeline).to_string();
                let what = "it is not there, or cannot be read: no restore finds the way to its timeline";
                report.problems.push(problem(&**store, &name, &what));
                continue;
            }
        };
        for backup in backups {
            let Some(size) = SegmentSize::new(backup.segment_bytes) else {
                continue;
            };
            let last = Lsn::new(backup.stop_lsn.as_u64().saturating_sub(1));
            if Some(history.owner(last)) != TimelineId::new(backup.timeline) {
                continue;
            }
            let Some((missing, next)) = inventory.path(&history, backup.start_lsn, size).gap else {
                continue;
            };
            if found.insert((missing, next)) {
                let what = format!(
                    "it is not there, and {next} is: recovery from backup {} on timeline {timeline} comes no further",
                    backup.label
                );
                report
                    .problems
                    .push(problem(&**store, &missing.to_string(), &what));
            }
        }
    }
    Ok(())
}
