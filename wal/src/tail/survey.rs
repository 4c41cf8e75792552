//! What stores have of a cluster's WAL, and where it has to go on so that it has no hole.

use std::collections::BTreeSet;

use skytide_sql::Lsn;

use super::error::TailError;
use crate::store::identity::Identity;
use crate::store::{Store, layout};
use crate::{HistoryFile, SegmentNo, TimelineId, WalFileName};

/// The archiver works ahead and side by side: so far behind the newest segment there may be one that is still on its
/// way.
const UNSETTLED: u64 = 64;

/// Where a store's WAL ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreEnd {
    pub timeline: TimelineId,
    /// Segments that are not there as a whole, up to the one behind the last, ascending: each is a place to go on
    /// from, and the first one leaves no hole. Never empty.
    pub open: Vec<SegmentNo>,
}

impl StoreEnd {
    /// The segment behind the last one.
    pub fn newest(&self) -> SegmentNo {
        self.open.last().copied().unwrap_or(SegmentNo::new(0))
    }
}

/// Looks for the newest timeline of `path` that the store has anything of; `None` if it has nothing of them.
pub async fn survey(
    store: &dyn Store,
    identity: Identity,
    path: &HistoryFile,
) -> Result<Option<StoreEnd>, TailError> {
    refuse_successors(store, path).await?;
    let ancestors = path.ancestors().iter().map(|ancestor| ancestor.timeline);
    let timelines: Vec<TimelineId> = ancestors.chain([path.timeline()]).collect();
    for timeline in timelines.into_iter().rev() {
        if let Some(open) = open_segments(store, identity, timeline).await? {
            return Ok(Some(StoreEnd { timeline, open }));
        }
    }
    Ok(None)
}

async fn open_segments(
    store: &dyn Store,
    identity: Identity,
    timeline: TimelineId,
) -> Result<Option<Vec<SegmentNo>>, TailError> {
    let size = identity.segment_size;
    let mut whole = BTreeSet::new();
    for object in store.list(&layout::timeline(timeline)).await? {
        if let Some(WalFileName::Segment(segment)) = layout::wal_file_of(&object.name)
            && let Some(number) = segment.number(size)
        {
            whole.insert(number);
        }
    }
    let mut begun = BTreeSet::new();
    for partial in store.partials(&layout::partials(timeline)).await? {
        if let Some(number) = layout::segment_of(&partial.name).and_then(|segment| segment.number(size)) {
            begun.insert(number);
        }
    }
    Ok(open_of(&whole, &begun))
}

fn open_of(whole: &BTreeSet<SegmentNo>, begun: &BTreeSet<SegmentNo>) -> Option<Vec<SegmentNo>> {
    let behind_last = whole.last().map(|last| last.next());
    let newest = behind_last.max(begun.last().copied())?;
    let oldest = whole.first().into_iter().chain(begun.first()).min()?;
    let from = newest.as_u64().saturating_sub(UNSETTLED).max(oldest.as_u64());
    let numbers = (from..=newest.as_u64()).map(SegmentNo::new);
    Some(numbers.filter(|number| !whole.contains(number)).collect())
}

/// A store that knows a timeline that left this one belongs to the server that took over.
async fn refuse_successors(store: &dyn Store, path: &HistoryFile) -> Result<(), TailError> {
    for object in store.list(&layout::histories()).await? {
        let Some(WalFileName::History(timeline)) = layout::wal_file_of(&object.name) else {
            continue;
        };
        if path.range_of(timeline).is_some() || timeline < path.timeline() {
            continue;
        }
        let text = store.get(&object.name).await?;
        let text = text.and_then(|packed| crate::pack::unpack(&packed).ok());
        let text = text.and_then(|(_, text)| String::from_utf8(text).ok());
        let history = text.and_then(|text| HistoryFile::parse(timeline, &text).ok());
        let left: Option<Lsn> = history
            .and_then(|history| history.range_of(path.timeline()))
            .and_then(|(_, end)| end);
        if let Some(lsn) = left {
            return Err(TailError::Replaced {
                location: store.location().to_owned(),
                timeline,
                lsn,
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(whole: &[u64], begun: &[u64]) -> Option<Vec<u64>> {
        let set = |numbers: &[u64]| numbers.iter().copied().map(SegmentNo::new).collect();
        let open = open_of(&set(whole), &set(begun))?;
        Some(open.into_iter().map(SegmentNo::as_u64).collect())
    }

    #[test]
    fn wal_goes_on_where_it_leaves_no_hole() {
        assert_eq!(open(&[], &[]), None);
        assert_eq!(open(&[3, 4], &[]), Some(vec![5]));
        assert_eq!(open(&[3, 4], &[5]), Some(vec![5]));
        assert_eq!(open(&[], &[7]), Some(vec![7]));
        assert_eq!(open(&[3, 4, 6], &[5]), Some(vec![5, 7]), "archived ahead");
        assert_eq!(
            open(&[3, 4, 5, 6], &[5]),
            Some(vec![7]),
            "the partial is superseded"
        );
        assert_eq!(
            open(&[3], &[4, 5]),
            Some(vec![4, 5]),
            "a full partial is not a whole segment yet"
        );
        assert_eq!(open(&[1, 200], &[]).unwrap().first(), Some(&137));
    }
}
