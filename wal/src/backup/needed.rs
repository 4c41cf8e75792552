//! Which WAL the backups in the stores may be recovered with.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use skytide_sql::Lsn;

use super::plan::history;
use super::stores::{Stores, list};
use super::{BackupError, Summary};
use crate::restore::Restorer;
use crate::store::{ObjectName, Store, StoreError, layout};
use crate::{HistoryFile, SegmentName, SegmentSize, TimelineId, WalFileName};

/// What recovery from one of some backups may ask for.
#[derive(Debug)]
pub struct Needed {
    backups: Vec<Summary>,
    histories: BTreeMap<TimelineId, HistoryFile>,
    size: SegmentSize,
}

impl Needed {
    /// By all backups of the stores; `None` if there are none, or one cannot be read: then everything may be needed.
    pub async fn by_all(stores: &[Arc<dyn Store>]) -> Result<Option<Needed>, BackupError> {
        let mut backups = Vec::new();
        for store in stores {
            let alone = Stores::new(vec![store.clone()], 1);
            for backup in list(&alone).await? {
                match backup {
                    Ok(backup) => backups.push(backup),
                    Err(_) => return Ok(None),
                }
            }
        }
        Needed::by(backups, stores).await
    }

    /// By these backups, which lie in `stores`; `None` without any.
    pub async fn by(backups: Vec<Summary>, stores: &[Arc<dyn Store>]) -> Result<Option<Needed>, BackupError> {
        let Some(first) = backups.first() else {
            return Ok(None);
        };
        let size = SegmentSize::new(first.segment_bytes).ok_or_else(|| BackupError::BadManifest {
            label: first.label.clone(),
            what: "segment size".into(),
        })?;
        let restorer = Restorer::new(stores.to_vec(), None);
        let mut histories = BTreeMap::new();
        for timeline in timelines(stores).await? {
            // Without its history a timeline's WAL stays.
            if let Ok(history) = history(&restorer, timeline).await {
                histories.insert(timeline, history);
            }
        }
        Ok(Some(Needed {
            backups,
            histories,
            size,
        }))
    }

    pub fn segment(&self, segment: SegmentName) -> bool {
        let end = segment.number(self.size).map(|number| number.end(self.size));
        end.is_none_or(|end| needs(&self.backups, &self.histories, segment.timeline(), end))
    }

    /// A history, and what is no file of WAL, is always needed.
    pub fn object(&self, name: &ObjectName) -> bool {
        match layout::wal_file_of(name) {
            Some(
                WalFileName::Segment(segment)
                | WalFileName::Partial(segment)
                | WalFileName::BackupHistory { segment, .. },
            ) => self.segment(segment),
            Some(WalFileName::History(_)) | None => true,
        }
    }
}

/// Those that the stores have WAL of.
async fn timelines(stores: &[Arc<dyn Store>]) -> Result<BTreeSet<TimelineId>, StoreError> {
    let mut timelines = BTreeSet::new();
    for store in stores {
        let files = store.list(&layout::wal_files()).await?;
        let names = files
            .iter()
            .filter_map(|listed| layout::wal_file_of(&listed.name));
        timelines.extend(names.map(WalFileName::timeline));
    }
    Ok(timelines)
}

/// Whether recovery from one of the backups may ask for a segment that ends at `end`.
pub(super) fn needs(
    kept: &[Summary],
    histories: &BTreeMap<TimelineId, HistoryFile>,
    timeline: TimelineId,
    end: Lsn,
) -> bool {
    kept.iter().any(|backup| {
        if end <= backup.start_lsn {
            return false;
        }
        let own = TimelineId::new(backup.timeline);
        match (own, histories.get(&timeline)) {
            (Some(own), _) if own == timeline => true,
            // On a way that leads on from the backup.
            (Some(own), Some(history)) => history
                .range_of(own)
                .is_some_and(|(_, left)| left.is_none_or(|left| left >= backup.stop_lsn)),
            // Nobody knows: it stays.
            (None, _) | (_, None) => true,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::Kind;
    use crate::backup::retention::tests::backup;

    #[test]
    fn wal_stays_if_a_way_leads_to_it_from_a_kept_backup() {
        let tli = |n| TimelineId::new(n).unwrap();
        let kept = [backup(2, Kind::Full, None)];
        let one = HistoryFile::root(tli(1));
        let two = one.child(tli(2), Lsn::new(5 << 24), "").unwrap();
        // Left before the backup.
        let three = one.child(tli(3), Lsn::new(1 << 24), "").unwrap();
        let histories = [(tli(1), one), (tli(2), two), (tli(3), three)].into();
        let needs = |timeline, end: u64| needs(&kept, &histories, tli(timeline), Lsn::new(end << 24));
        assert!(!needs(1, 2), "it ends where the backup begins");
        assert!(needs(1, 3));
        assert!(needs(2, 9));
        assert!(!needs(3, 9), "no way from the backup leads there");
        assert!(needs(4, 9), "nobody knows its history");
        assert!(!needs(4, 1));
    }
}
