//! The WAL that a backup needs, and what of it the stores have.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use skytide_sql::Lsn;

use super::stores::Stores;
use super::{BackupError, Progress};
use crate::format::page::{LONG_HEADER, PageSize, SHORT_HEADER};
use crate::store::{Prefix, Store, StoreError, layout, partial};
use crate::{HistoryFile, SegmentName, SegmentNo, SegmentSize, TimelineId, WalFileName};

/// How often the stores are asked for WAL that is still to come.
const ASK_AGAIN: Duration = Duration::from_millis(200);

/// The segments with the WAL from `start` to `stop`.
pub fn segments(
    timeline: TimelineId,
    start: Lsn,
    stop: Lsn,
    size: SegmentSize,
) -> impl Iterator<Item = SegmentName> {
    let first = SegmentNo::holding(start, size).as_u64();
    let last = SegmentNo::ending_at(stop, size).as_u64();
    (first..=last).filter_map(move |number| SegmentName::new(timeline, SegmentNo::new(number), size))
}

/// Whether a store has the segment, or as much of it as is written up to `stop`.
pub(super) async fn has(
    store: &dyn Store,
    segment: SegmentName,
    stop: Lsn,
    size: SegmentSize,
) -> Result<bool, StoreError> {
    let name = layout::object_of(WalFileName::Segment(segment));
    if store.head(&name).await?.is_some() {
        return Ok(true);
    }
    let ends_here = segment.number(size) == Some(SegmentNo::ending_at(stop, size));
    if !ends_here {
        return Ok(false);
    }
    let partial = partial::read(store, segment, size).await?;
    Ok(partial.is_some_and(|partial| partial.boundary.lsn >= stop))
}

/// Where the next record can begin at the earliest: behind a page's header, if a page begins there.
pub(super) fn next_record(end: Lsn, size: SegmentSize) -> Lsn {
    let header = match (size.offset_of(end), PageSize::DEFAULT.offset_of(end)) {
        (0, _) => LONG_HEADER,
        (_, 0) => SHORT_HEADER,
        _ => 0,
    };
    Lsn::new(end.as_u64() + header as u64)
}

/// Waits until each segment is in some store. The archiver needs a moment, and longer if it is behind.
pub(crate) async fn wait_for(
    stores: &Stores,
    timeline: TimelineId,
    range: std::ops::Range<Lsn>,
    size: SegmentSize,
    timeout: Duration,
    progress: &Progress,
) -> Result<(), BackupError> {
    let wanted: Vec<SegmentName> = segments(timeline, range.start, range.end, size).collect();
    progress.enter("waiting for WAL", wanted.len() as u64);
    let deadline = Instant::now() + timeout;
    for segment in wanted {
        loop {
            let mut found = false;
            let mut trouble = None;
            for store in stores.alive() {
                match has(&*store, segment, range.end, size).await {
                    Ok(has) => found |= has,
                    Err(error) => drop(trouble.get_or_insert(error)),
                }
            }
            if found {
                break;
            }
            if Instant::now() >= deadline {
                if let Some(error) = trouble {
                    return Err(error.into());
                }
                return Err(BackupError::WalTimeout {
                    segment: segment.to_string(),
                    seconds: timeout.as_secs(),
                });
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
        progress.add(1);
    }
    Ok(())
}

/// What WAL the stores have, together.
#[derive(Debug, Default)]
pub struct Inventory {
    segments: BTreeSet<SegmentName>,
    /// Beginnings of segments.
    partials: BTreeSet<SegmentName>,
    histories: BTreeSet<TimelineId>,
}

/// The WAL that recovery would replay from a position on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path {
    /// In order, without a gap.
    pub segments: Vec<SegmentName>,
    /// The last one is a beginning only.
    pub ends_in_partial: bool,
    /// WAL that is there behind a gap: the first segment that is missing, and the first one behind it.
    pub gap: Option<(SegmentName, SegmentName)>,
}

impl Inventory {
    pub async fn of(stores: &Stores) -> Result<Inventory, BackupError> {
        let mut inventory = Inventory::default();
        let answers = stores
            .each(async |store| {
                let mut files = store.list(&layout::wal_files()).await?;
                files.extend(store.list(&layout::histories()).await?);
                Ok((files, store.partials(&Prefix::default()).await?))
            })
            .await?;
        for (_, (files, partials)) in answers {
            for listed in files {
                match layout::wal_file_of(&listed.name) {
                    Some(WalFileName::Segment(segment)) => drop(inventory.segments.insert(segment)),
                    Some(WalFileName::Partial(segment)) => drop(inventory.partials.insert(segment)),
                    Some(WalFileName::History(timeline)) => drop(inventory.histories.insert(timeline)),
                    _ => {}
                }
            }
            for listed in partials {
                inventory.partials.extend(layout::segment_of(&listed.name));
            }
        }
        Ok(inventory)
    }

    /// Those with segments or a history.
    pub fn timelines(&self) -> impl Iterator<Item = TimelineId> {
        let of_segments = self.segments.iter().map(|segment| segment.timeline());
        of_segments.chain(self.histories.iter().copied())
    }

    /// The timeline recovery takes for the latest: it asks for one history after the other until there is none.
    pub fn latest_timeline(&self, from: TimelineId) -> TimelineId {
        let mut latest = from;
        while let Some(next) = TimelineId::new(latest.as_u32().saturating_add(1))
            && self.histories.contains(&next)
        {
            latest = next;
        }
        latest
    }

    /// The WAL from `start` on along a history.
    pub fn path(&self, history: &HistoryFile, start: Lsn, size: SegmentSize) -> Path {
        let mut path = Path {
            segments: Vec::new(),
            ends_in_partial: false,
            gap: None,
        };
        let mut number = SegmentNo::holding(start, size);
        let missing = loop {
            let Some(segment) = self.of_number(&self.segments, history, number, size) else {
                break number;
            };
            path.segments.push(segment);
            number = number.next();
        };
        let owner = history.owner_of_segment(missing, size);
        let later = self.segments.iter().filter(|segment| {
            history.range_of(segment.timeline()).is_some()
                && segment.number(size).is_some_and(|number| number > missing)
                // A branch that was left goes on in its own name, and is of no use here.
                && segment.number(size).is_some_and(|n| history.owner_of_segment(n, size) == segment.timeline())
        });
        let next = later
            .min_by_key(|segment| segment.number(size).map(SegmentNo::as_u64))
            .copied();
        if let Some(next) = next
            && let Some(missing) = SegmentName::new(owner, missing, size)
        {
            path.gap = Some((missing, next));
        } else if let Some(partial) = self.of_number(&self.partials, history, missing, size) {
            path.segments.push(partial);
            path.ends_in_partial = true;
        }
        path
    }

    /// The file recovery gets for a segment: the newest timeline's that had begun by its end and has one.
    fn of_number(
        &self,
        among: &BTreeSet<SegmentName>,
        history: &HistoryFile,
        number: SegmentNo,
        size: SegmentSize,
    ) -> Option<SegmentName> {
        let newest = history.owner_of_segment(number, size);
        let ancestors = history.ancestors().iter().rev().map(|ancestor| ancestor.timeline);
        let mut tried = std::iter::once(history.timeline())
            .chain(ancestors)
            .skip_while(|timeline| *timeline != newest);
        tried.find_map(|timeline| {
            let segment = SegmentName::new(timeline, number, size)?;
            // Below the owner only the parent, in the segment in which it was left.
            let (_, end) = history.range_of(timeline)?;
            let reaches = end.is_none_or(|end| number <= SegmentNo::holding(end, size));
            (reaches && among.contains(&segment)).then_some(segment)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inventory(segments: &[&str], partials: &[&str]) -> Inventory {
        let parse = |names: &[&str]| names.iter().map(|name| name.parse().unwrap()).collect();
        Inventory {
            segments: parse(segments),
            partials: parse(partials),
            histories: [2, 3].into_iter().filter_map(TimelineId::new).collect(),
        }
    }

    #[test]
    fn the_way_through_the_archive() {
        let size = SegmentSize::new(16 << 20).unwrap();
        let tli = |n| TimelineId::new(n).unwrap();
        let start = Lsn::new(0x200_0028);
        let one = HistoryFile::root(tli(1));
        let all = inventory(
            &["000000010000000000000002", "000000010000000000000003"],
            &["000000010000000000000004"],
        );
        let path = all.path(&one, start, size);
        assert_eq!(
            (path.segments.len(), path.ends_in_partial, path.gap),
            (3, true, None)
        );

        let gap = inventory(&["000000010000000000000002", "000000010000000000000005"], &[]);
        let path = gap.path(&one, start, size);
        assert_eq!(path.segments.len(), 1);
        let (missing, next) = path.gap.unwrap();
        assert_eq!(missing.to_string(), "000000010000000000000003");
        assert_eq!(next.to_string(), "000000010000000000000005");

        // Timeline 2 left timeline 1 in segment 4; timeline 1 went on.
        let two = one.child(tli(2), Lsn::new(0x400_1000), "").unwrap();
        let branched = inventory(
            &[
                "000000010000000000000002",
                "000000010000000000000003",
                "000000010000000000000004",
                "000000010000000000000005",
                "000000020000000000000004",
            ],
            &[],
        );
        let names: Vec<String> = branched
            .path(&two, start, size)
            .segments
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(names.last().unwrap(), "000000020000000000000004");
        assert_eq!(names.len(), 3);
        assert_eq!(branched.path(&two, start, size).gap, None);
        assert_eq!(branched.path(&one, start, size).segments.len(), 4);
        assert_eq!(branched.latest_timeline(tli(1)), tli(3));
        assert_eq!(segments(tli(1), start, Lsn::new(0x400_0000), size).count(), 2);
    }
}
