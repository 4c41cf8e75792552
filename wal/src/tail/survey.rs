//! What stores have of a cluster's WAL, and where it has to go on so that it has no hole.

use std::collections::BTreeSet;
use std::sync::Arc;

use skytide_sql::Lsn;

use super::error::TailError;
use super::names_of;
use crate::store::identity::Identity;
use crate::store::{Store, layout};
use crate::succession::{Successor, successor_of};
use crate::{HistoryFile, SegmentNo, SegmentSize, TimelineId, WalFileName};

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

/// The first segment that the store does not have as a whole under any name on the way to the path's timeline, behind
/// those of which it has something; `None` if it has nothing.
pub(super) async fn first_open(
    store: &dyn Store,
    identity: Identity,
    path: &HistoryFile,
) -> Result<Option<SegmentNo>, TailError> {
    let mut there = There::default();
    let ancestors = path.ancestors().iter().map(|ancestor| ancestor.timeline);
    for timeline in ancestors.chain([path.timeline()]) {
        let mut own = There::default();
        own.look(store, identity, timeline).await?;
        // Not what a former primary wrote after it was left.
        let is_on_the_way = |number: &SegmentNo| {
            let names = names_of(path, *number, identity.segment_size);
            names.iter().any(|name| name.timeline() == timeline)
        };
        own.whole.retain(is_on_the_way);
        own.begun.retain(is_on_the_way);
        there.whole.append(&mut own.whole);
        there.begun.append(&mut own.begun);
    }
    Ok(open_of(&there.whole, &there.begun).and_then(|open| open.first().copied()))
}

pub(super) async fn open_segments(
    store: &dyn Store,
    identity: Identity,
    timeline: TimelineId,
) -> Result<Option<Vec<SegmentNo>>, TailError> {
    let mut there = There::default();
    there.look(store, identity, timeline).await?;
    Ok(open_of(&there.whole, &there.begun))
}

/// What a store has.
#[derive(Default)]
struct There {
    whole: BTreeSet<SegmentNo>,
    begun: BTreeSet<SegmentNo>,
}

impl There {
    async fn look(
        &mut self,
        store: &dyn Store,
        identity: Identity,
        timeline: TimelineId,
    ) -> Result<(), TailError> {
        let size = identity.segment_size;
        for object in store.list(&layout::timeline(timeline)).await? {
            if let Some(WalFileName::Segment(segment)) = layout::wal_file_of(&object.name)
                && let Some(number) = segment.number(size)
            {
                self.whole.insert(number);
            }
        }
        for partial in store.partials(&layout::partials(timeline)).await? {
            if let Some(number) = layout::segment_of(&partial.name).and_then(|segment| segment.number(size)) {
                self.begun.insert(number);
            }
        }
        Ok(())
    }
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
    match successor_of(store, path.timeline()).await? {
        None => Ok(()),
        Some(Successor { timeline, lsn }) => Err(TailError::Replaced {
            location: store.location().to_owned(),
            timeline,
            lsn,
        }),
    }
}

/// Of the stores that can be asked and have something.
pub(crate) async fn survey_all(
    stores: &[Arc<dyn Store>],
    identity: Identity,
    path: &HistoryFile,
) -> Result<Vec<StoreEnd>, TailError> {
    let mut ends = Vec::new();
    let mut trouble = None;
    let mut asked = false;
    for store in stores {
        let found = async {
            if let Some(found) = Identity::read(&**store).await? {
                identity.expect(store.location(), found)?;
            }
            survey(&**store, identity, path).await
        };
        match found.await {
            Ok(end) => {
                asked = true;
                ends.extend(end);
            }
            Err(error) if error.is_store_trouble() => trouble = Some(error),
            Err(error) => return Err(error),
        }
    }
    match trouble {
        Some(error) if !asked => Err(TailError::NoStore(Box::new(error))),
        _ => Ok(ends),
    }
}

/// Where WAL goes on: after the store that has most, on the newest timeline.
pub(crate) fn start_of(
    ends: &[StoreEnd],
    path: &HistoryFile,
    gone_before: Option<SegmentNo>,
    size: SegmentSize,
) -> Option<(TimelineId, SegmentNo)> {
    let end = ends
        .iter()
        .max_by_key(|end| (end.timeline, end.open.first().copied()))?;
    let usable = |number: &&SegmentNo| gone_before.is_none_or(|gone| **number >= gone);
    let first = end.open.iter().find(usable).copied().unwrap_or(end.newest());
    // What a former primary wrote after it was left is not on the way to the server's timeline.
    let (_, switch) = path.range_of(end.timeline)?;
    match switch {
        Some(switch) if SegmentNo::holding(switch, size) < first => {
            let (next, _) = next_after(path, end.timeline)?;
            Some((next, SegmentNo::holding(switch, size)))
        }
        _ => Some((end.timeline, first)),
    }
}

/// The timeline of the path that follows this one, and where it begins.
pub(crate) fn next_after(path: &HistoryFile, timeline: TimelineId) -> Option<(TimelineId, Lsn)> {
    let (_, switch) = path.range_of(timeline)?;
    let mut timelines = path.ancestors().iter().map(|ancestor| ancestor.timeline);
    let next = timelines.find(|next| *next > timeline).unwrap_or(path.timeline());
    Some((next, switch?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size() -> SegmentSize {
        SegmentSize::new(1 << 24).unwrap()
    }

    fn end(timeline: u32, open: &[u64]) -> StoreEnd {
        StoreEnd {
            timeline: TimelineId::new(timeline).unwrap(),
            open: open.iter().copied().map(SegmentNo::new).collect(),
        }
    }

    #[test]
    fn streaming_goes_on_where_no_hole_is_left() {
        let root = HistoryFile::root(TimelineId::new(1).unwrap());
        let at = |ends: &[StoreEnd], path: &HistoryFile, gone: Option<u64>| {
            start_of(ends, path, gone.map(SegmentNo::new), size())
                .map(|(timeline, number)| (timeline.as_u32(), number.as_u64()))
        };
        assert_eq!(at(&[], &root, None), None);
        assert_eq!(at(&[end(1, &[5]), end(1, &[7])], &root, None), Some((1, 7)));
        assert_eq!(at(&[end(1, &[5, 7])], &root, None), Some((1, 5)));
        assert_eq!(at(&[end(1, &[5, 7])], &root, Some(6)), Some((1, 7)));

        let switch = Lsn::new(0x0600_1000);
        let path = root.child(TimelineId::new(2).unwrap(), switch, "").unwrap();
        assert_eq!(
            at(&[end(1, &[5])], &path, None),
            Some((1, 5)),
            "up to the switch first"
        );
        assert_eq!(at(&[end(1, &[6])], &path, None), Some((1, 6)));
        assert_eq!(
            at(&[end(1, &[8])], &path, None),
            Some((2, 6)),
            "what was written after it is left"
        );
        assert_eq!(at(&[end(1, &[9]), end(2, &[7])], &path, None), Some((2, 7)));
    }

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
