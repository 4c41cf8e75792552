//! Does a segment go on where the one before it ends? Each record names the one before it, so a segment of another
//! server's history does not fit behind ours, though it has a name of our timeline.
//!
//! No segment is read for that: what has to be known of the one before is remembered, or stands in its index.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use skytide_sql::Lsn;

use super::{ArchiveError, Prepared};
use crate::format::page::{LONG_HEADER, PageSize, SHORT_HEADER};
use crate::pack::{Contents, Index, PackError, Span};
use crate::store::{Store, StoreError, layout};
use crate::succession::{Successor, history_in, successor_of};
use crate::tail::names_of;
use crate::{SegmentName, SegmentNo, SegmentSize, WalFileName};

/// Segments remembered: more than are on their way at the same time.
const MAX_REMEMBERED: usize = 64;

/// Where a segment hangs together with its neighbours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Link {
    /// The record before its first one, as that one says.
    previous: Option<Lsn>,
    /// It begins with the rest of a record.
    continues: bool,
    /// Its last whole record.
    last: Option<Lsn>,
    /// Where a record begins that goes on in the next segment, if one does.
    open: Option<Lsn>,
}

impl Link {
    pub fn of(span: &Span, size: SegmentSize, continues: bool) -> Link {
        Link {
            // Where a chain of records begins, there is none before.
            previous: span
                .first_record
                .map(|_| span.first_prev)
                .filter(|lsn| lsn.is_valid()),
            continues,
            last: span.last_record,
            open: record_at(span.end_lsn, size)
                .filter(|open| SegmentNo::holding(*open, size) == SegmentNo::holding(span.start_lsn, size)),
        }
    }

    /// What `next` has to say and says instead, if it does not follow.
    fn misfit(&self, next: &Link) -> Option<(Lsn, Lsn)> {
        let found = next.previous?;
        // Inside of a record longer than a segment nothing is known.
        let last = self.last?;
        let expected = match next.continues {
            // Without an open record nothing can go on, so this does not fit either.
            true => self.open.unwrap_or(last),
            false => last,
        };
        (found != expected).then_some((expected, found))
    }
}

/// Where a record begins behind one that ends here.
fn record_at(end: Lsn, size: SegmentSize) -> Option<Lsn> {
    let header = match (size.offset_of(end), PageSize::DEFAULT.offset_of(end)) {
        (0, _) => LONG_HEADER as u64,
        (_, 0) => SHORT_HEADER as u64,
        _ => 0,
    };
    end.as_u64().checked_add(header).map(Lsn::new)
}

/// The segments archived last.
#[derive(Debug, Default)]
pub(super) struct Lineage(Mutex<BTreeMap<SegmentName, Link>>);

impl Lineage {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<SegmentName, Link>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Compares a segment with its neighbours as far as they are remembered, and remembers it.
    pub fn meet(&self, prepared: &Prepared) -> Result<(), ArchiveError> {
        let Some((segment, link, size)) = prepared.link() else {
            return Ok(());
        };
        let mut links = self.lock();
        let neighbour = |number: Option<u64>| {
            let name = SegmentName::new(segment.timeline(), SegmentNo::new(number?), size)?;
            Some((name, *links.get(&name)?))
        };
        let number = segment.number(size).map(SegmentNo::as_u64);
        let before = neighbour(number.and_then(|number| number.checked_sub(1)));
        let after = neighbour(number.and_then(|number| number.checked_add(1)));
        let misfits = [
            before.and_then(|(before, link_before)| Some((before, segment, link_before.misfit(&link)?))),
            after.and_then(|(after, link_after)| Some((segment, after, link.misfit(&link_after)?))),
        ];
        if let Some((before, name, (expected, found))) = misfits.into_iter().flatten().next() {
            return Err(ArchiveError::Unlinked {
                name: WalFileName::Segment(name),
                before,
                location: None,
                expected,
                found,
            });
        }
        links.insert(segment, link);
        if links.len() > MAX_REMEMBERED {
            links.pop_first();
        }
        Ok(())
    }

    pub fn forget(&self, name: WalFileName) {
        if let WalFileName::Segment(segment) = name {
            self.lock().remove(&segment);
        }
    }

    fn remembers(&self, name: SegmentName) -> bool {
        self.lock().contains_key(&name)
    }

    /// Compares a segment with what this store has: with timelines that left its own, and with the one before it. A
    /// store that has none, or whose copy cannot be read, has nothing to say.
    pub async fn check_in(&self, store: &dyn Store, prepared: &Prepared) -> Result<(), ArchiveError> {
        refuse_left(store, prepared).await?;
        let Some((segment, link, size)) = prepared.link() else {
            return Ok(());
        };
        let number = segment.number(size).map(SegmentNo::as_u64);
        let Some(number) = number
            .and_then(|number| number.checked_sub(1))
            .map(SegmentNo::new)
        else {
            return Ok(());
        };
        let Some(own) = SegmentName::new(segment.timeline(), number, size) else {
            return Ok(());
        };
        if self.remembers(own) {
            return Ok(());
        }
        let mut before = read_link(store, own, size).await?.map(|link| (own, link));
        if before.is_none()
            && let Some(history) = history_in(store, segment.timeline()).await?
        {
            for name in names_of(&history, number, size) {
                if name != own && before.is_none() {
                    before = read_link(store, name, size).await?.map(|link| (name, link));
                }
            }
        }
        let misfit = before.and_then(|(name, before)| Some((name, before.misfit(&link)?)));
        match misfit {
            None => Ok(()),
            Some((before, (expected, found))) => Err(ArchiveError::Unlinked {
                name: prepared.name,
                before,
                location: Some(store.location().to_owned()),
                expected,
                found,
            }),
        }
    }
}

impl Prepared {
    fn link(&self) -> Option<(SegmentName, Link, SegmentSize)> {
        let (WalFileName::Segment(segment) | WalFileName::Partial(segment)) = self.name else {
            return None;
        };
        let size = SegmentSize::new(self.contents.segment_bytes)?;
        let span = self.contents.span.as_ref()?;
        Some((segment, Link::of(span, size, self.continues), size))
    }
}

/// A segment with WAL behind the place where another server went on is of nobody's history but its writer's. What lies
/// before it may come late, and the server that took over archives the old timeline's last segment as a partial one.
async fn refuse_left(store: &dyn Store, prepared: &Prepared) -> Result<(), ArchiveError> {
    let (WalFileName::Segment(segment), Some(size)) =
        (prepared.name, SegmentSize::new(prepared.contents.segment_bytes))
    else {
        return Ok(());
    };
    let Some(number) = segment.number(size) else {
        return Ok(());
    };
    let own = segment.timeline();
    let end = match &prepared.contents.span {
        Some(span) => span.end_lsn,
        None => number.start(size),
    };
    match successor_of(store, own).await? {
        Some(Successor { timeline, lsn }) if lsn < end || lsn <= number.start(size) => {
            Err(ArchiveError::Replaced {
                name: prepared.name,
                location: store.location().to_owned(),
                own,
                timeline,
                lsn,
            })
        }
        _ => Ok(()),
    }
}

async fn read_link(
    store: &dyn Store,
    segment: SegmentName,
    size: SegmentSize,
) -> Result<Option<Link>, StoreError> {
    let object = layout::object_of(WalFileName::Segment(segment));
    let Some(bytes) = store.head(&object).await? else {
        return Ok(None);
    };
    let tail = Index::tail_bytes(size.bytes()).min(bytes);
    let read = store.get_range(&object, bytes - tail..bytes).await;
    let index = match read {
        Ok(Some(tail)) => Index::parse(&tail),
        // Deleted meanwhile, or cut.
        Ok(None) | Err(StoreError::Range { .. }) => return Ok(None),
        Err(error) => return Err(error),
    };
    let index: Result<Index, PackError> = index;
    match index {
        Ok(index) => {
            let contents: &Contents = index.contents();
            // How it begins is not asked of it.
            Ok(contents.span.as_ref().map(|span| Link::of(span, size, false)))
        }
        Err(error) => {
            let error: &dyn std::error::Error = &error;
            tracing::warn!(store = store.location(), %segment, error, "the segment before cannot be read");
            Ok(None)
        }
    }
}
