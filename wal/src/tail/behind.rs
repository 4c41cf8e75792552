//! Stores that could not follow, and how they come back.

use std::sync::Arc;
use std::time::Duration;

use skytide_sql::backoff::Backoff;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::survey::first_open;
use super::{Append, Member, Safe, Tail, TailError, names_of, safe_at};
use crate::archive::{Copied, copy, first_difference};
use crate::store::identity::Identity;
use crate::store::{Content, Put, Store, StoreError, layout, partial};
use crate::{HistoryFile, SegmentName, SegmentNo, SegmentSize, WalFileName};

const FIRST_RETRY: Duration = Duration::from_millis(200);
const LONGEST_RETRY: Duration = Duration::from_secs(10);
/// A store that comes back has so long to say what it has of the last segments.
const JOIN_LIMIT: Duration = Duration::from_secs(10);

/// Why and since when a store is behind.
#[derive(Debug)]
pub(super) struct Behind {
    trouble: Option<TailError>,
    /// The first segment that it may not have as a whole; `None` if nobody has looked.
    lacks: Option<SegmentNo>,
    /// Where a store that has nothing begins.
    first: SegmentNo,
    backoff: Backoff,
    retry_at: Instant,
    /// Gives it what it lacks, up to and without this segment.
    work: Option<(SegmentNo, JoinHandle<Result<(), TailError>>)>,
    /// A piece that is still on its way: nothing else may be written before it has arrived or failed.
    late: Option<Append>,
}

impl Behind {
    pub fn unknown(first: SegmentNo) -> Behind {
        Behind {
            trouble: None,
            lacks: None,
            first,
            backoff: Backoff::new(FIRST_RETRY, LONGEST_RETRY),
            retry_at: Instant::now(),
            work: None,
            late: None,
        }
    }

    pub fn take_trouble(&mut self) -> Option<TailError> {
        self.trouble.take()
    }

    /// Has it tried again only when this has ended, in whatever way.
    pub fn wait_for(&mut self, append: Append) {
        self.late = Some(append);
    }

    fn failed(&mut self, error: TailError) {
        self.trouble = Some(error);
        self.retry_at = Instant::now() + self.backoff.next_delay();
    }
}

impl Drop for Behind {
    fn drop(&mut self) {
        if let Some((_, work)) = &self.work {
            work.abort();
        }
        if let Some(late) = &self.late {
            late.abort();
        }
    }
}

impl Tail {
    /// At the beginning: stores that have the same end write on, the others are behind. `first` is where the stores
    /// that have most go on.
    pub(super) async fn join_all(&mut self, reachable: &[usize], first: SegmentNo) -> Result<(), TailError> {
        let identity = self.settings.identity;
        let size = identity.segment_size;
        let before = first.as_u64().checked_sub(1).map(SegmentNo::new);
        let mut sources = Vec::new();
        let mut lagging = Vec::new();
        for place in reachable {
            let Some(store) = self.settings.stores.get(*place).cloned() else {
                continue;
            };
            let looked = async {
                let mut has = false;
                for name in before.map_or_else(Vec::new, |before| names_of(&self.path, before, size)) {
                    has |= store
                        .head(&layout::object_of(WalFileName::Segment(name)))
                        .await?
                        .is_some();
                }
                Ok((has, first_lacking(&*store, identity, &self.path, first).await?))
            };
            match looked.await {
                Ok((true, None)) => sources.push(*place),
                Ok((has, lacks)) => lagging.push((*place, has, lacks.unwrap_or(first))),
                Err(TailError::Store(error)) => self.leave_behind(*place, error.into()),
                Err(error) => return Err(error),
            }
        }
        // A hole that nobody can fill, or nobody has the segment before: here the WAL in the stores begins.
        if sources.is_empty() {
            let anybody = lagging.iter().any(|(_, has, _)| *has);
            lagging.retain(|(place, has, _)| {
                let is_source = *has || !anybody;
                if is_source {
                    sources.push(*place);
                }
                !is_source
            });
        }
        for place in sources {
            match self.join(place).await {
                Err(error) if error.is_store_trouble() => self.leave_behind(place, error),
                joined => joined?,
            }
        }
        for (place, _, lacks) in lagging {
            let location = self.settings.stores.get(place).map(|store| store.location());
            tracing::info!(
                store = location,
                from = lacks.as_u64(),
                "a store is given what it lacks"
            );
            if let Some(Member::Behind(_, behind)) = self.members.get_mut(place) {
                behind.lacks = Some(lacks);
            }
        }
        Ok(())
    }

    /// Lets a store that has everything before the first full or current segment write on.
    async fn join(&mut self, place: usize) -> Result<(), TailError> {
        let size = self.settings.identity.segment_size;
        let Some(store) = self.settings.stores.get(place).cloned() else {
            return Ok(());
        };
        let oldest = self.full.front().unwrap_or(&self.current).name;
        sweep(&*store, oldest, size).await?;
        for segment in self.full.iter_mut().chain([&mut self.current]) {
            let cursor = segment.meet(&*store, size).await?;
            segment.set_cursor(place, cursor);
        }
        let was = self.members.get(place).map(Member::safe).unwrap_or_default();
        if let Some(member) = self.members.get_mut(place) {
            *member = Member::Live(was);
        }
        let oldest = self.full.front().unwrap_or(&self.current);
        // Everything before is there; of the segments themselves what their partials have.
        let mut safe = Safe {
            durable: oldest.start,
            boundary: oldest.start,
            last_commit: None,
        };
        for segment in self.full.iter().chain([&self.current]) {
            let cursor = segment.cursor(place);
            if cursor.sent < segment.wal.len() {
                break;
            }
            if cursor.sent > 0 {
                safe = safe_at(segment);
            }
        }
        if safe.boundary <= oldest.start && oldest.boundary.lsn <= oldest.start {
            safe.boundary = oldest.boundary.lsn;
            safe.last_commit = oldest.last_commit;
        }
        self.now_safe(place, safe);
        self.window.trouble(place, None);
        tracing::info!(store = store.location(), end = %self.current.end(), "a store takes WAL");
        Ok(())
    }

    pub(super) fn leave_behind(&mut self, place: usize, error: TailError) {
        let oldest = self.sealing.front().map(|sealing| sealing.segment.name);
        let oldest = oldest.or(self.full.front().map(|full| full.name));
        let name = oldest.unwrap_or(self.current.name);
        self.leave_behind_at(place, error, name);
    }

    /// The store may lack everything from `name` on.
    pub(super) fn leave_behind_at(&mut self, place: usize, error: TailError, name: SegmentName) {
        let size = self.settings.identity.segment_size;
        let words = super::error::words(&error);
        let location = self.settings.stores.get(place).map(|store| store.location());
        let number = name.number(size);
        self.window.trouble(place, Some(words.clone()));
        let Some(member) = self.members.get_mut(place) else {
            return;
        };
        match member {
            Member::Live(safe) => {
                tracing::warn!(store = location, error = words, "a store takes no WAL");
                let mut behind = Behind::unknown(number.unwrap_or(SegmentNo::new(0)));
                behind.lacks = number;
                behind.failed(error);
                *member = Member::Behind(*safe, Box::new(behind));
            }
            Member::Behind(_, behind) => {
                // What nobody has looked at may lack more.
                behind.lacks = behind
                    .lacks
                    .map(|lacks| number.map_or(lacks, |number| lacks.min(number)));
                behind.failed(error);
            }
        }
    }

    /// Looks after the stores that are behind.
    pub(super) async fn tend(&mut self) -> Result<(), TailError> {
        for place in 0..self.members.len() {
            let Some(Member::Behind(_, behind)) = self.members.get_mut(place) else {
                continue;
            };
            match behind.work.take() {
                Some((to, work)) if work.is_finished() => match work.await {
                    Ok(Ok(())) => {
                        behind.lacks = Some(to);
                        self.rejoin(place).await?;
                    }
                    Ok(Err(error)) if error.is_store_trouble() => {
                        self.window.trouble(place, Some(super::error::words(&error)));
                        behind.failed(error);
                    }
                    Ok(Err(error)) => return Err(error),
                    Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                    Err(_) => {}
                },
                Some(running) => behind.work = Some(running),
                None if behind.late.as_ref().is_some_and(|late| !late.is_finished()) => {}
                None if Instant::now() >= behind.retry_at => self.refill(place),
                None => {}
            }
        }
        Ok(())
    }

    /// The first segment that is in no store as a whole.
    fn first_unsealed(&self) -> SegmentName {
        let sealing = self.sealing.front().map(|sealing| sealing.segment.name);
        let full = self.full.front().map(|full| full.name);
        sealing.or(full).unwrap_or(self.current.name)
    }

    fn refill(&mut self, place: usize) {
        let size = self.settings.identity.segment_size;
        let Some(to) = self.first_unsealed().number(size) else {
            return;
        };
        let identity = self.settings.identity;
        let sources: Vec<Arc<dyn Store>> = self
            .live()
            .into_iter()
            .filter_map(|live| self.settings.stores.get(live).cloned())
            .collect();
        let Some(store) = self.settings.stores.get(place).cloned() else {
            return;
        };
        if let Some(Member::Behind(_, behind)) = self.members.get_mut(place) {
            let (lacks, first, path) = (behind.lacks, behind.first, self.path.clone());
            let work = tokio::spawn(async move {
                identity.claim(&*store).await?;
                let from = match lacks {
                    Some(lacks) => lacks,
                    None => first_lacking(&*store, identity, &path, to)
                        .await?
                        .unwrap_or(first),
                };
                let names: Vec<SegmentName> = (from.as_u64()..to.as_u64())
                    .flat_map(|number| names_of(&path, SegmentNo::new(number), size))
                    .collect();
                give(&*store, &sources, &names).await
            });
            behind.work = Some((to, work));
        }
    }

    /// The store has every segment that is whole. If others became whole meanwhile, it needs another round.
    async fn rejoin(&mut self, place: usize) -> Result<(), TailError> {
        let size = self.settings.identity.segment_size;
        let Some(Member::Behind(_, behind)) = self.members.get_mut(place) else {
            return Ok(());
        };
        let lacks = behind.lacks;
        if !self.sealing.is_empty() || lacks != self.first_unsealed().number(size) {
            return Ok(());
        }
        // The stores that take WAL wait meanwhile.
        let joined = tokio::time::timeout(JOIN_LIMIT, self.join(place)).await;
        match joined.unwrap_or_else(|_| Err(self.slow(place))) {
            Err(error) if error.is_store_trouble() => {
                self.leave_behind(place, error);
                Ok(())
            }
            joined => joined,
        }
    }
}

/// Removes the partials of segments before `oldest` that are there as a whole: an archiver was faster, or a receiver
/// died between its last two steps. Each has to be the beginning of the whole.
async fn sweep(store: &dyn Store, oldest: SegmentName, size: SegmentSize) -> Result<(), TailError> {
    for listed in store.partials(&layout::partials(oldest.timeline())).await? {
        let Some(segment) = layout::segment_of(&listed.name).filter(|segment| *segment < oldest) else {
            continue;
        };
        let Some(packed) = store
            .get(&layout::object_of(WalFileName::Segment(segment)))
            .await?
        else {
            continue;
        };
        let begun = match partial::read(store, segment, size).await {
            Ok(None) => continue,
            // The whole segment takes its place, and is checked.
            Err(error @ StoreError::Damaged { .. }) => {
                tracing::warn!("{error}");
                None
            }
            read => read?,
        };
        let (_, whole) = crate::pack::unpack(&packed).map_err(|error| StoreError::Damaged {
            location: store.location().to_owned(),
            name: segment.to_string(),
            what: error.to_string(),
        })?;
        let differs = begun.and_then(|begun| {
            let start = segment.start(size).unwrap_or(begun.boundary.lsn);
            let lsn = first_difference(start, size, &whole, &begun.wal)?;
            (lsn < begun.boundary.lsn).then_some(lsn)
        });
        match differs {
            Some(lsn) => {
                return Err(TailError::Diverged {
                    location: store.location().to_owned(),
                    segment,
                    lsn,
                });
            }
            None => {
                // Its writer may have died before its name was durable; what is put again is.
                let object = layout::object_of(WalFileName::Segment(segment));
                let _: Put = store.put(&object, Content::new(packed)).await?;
                store.delete_partial(&listed.name).await?;
            }
        }
    }
    Ok(())
}

/// The first segment before `first` that the store lacks; `None` also if it has nothing at all.
async fn first_lacking(
    store: &dyn Store,
    identity: Identity,
    path: &HistoryFile,
    first: SegmentNo,
) -> Result<Option<SegmentNo>, TailError> {
    let open = first_open(store, identity, path).await?;
    Ok(open.filter(|open| *open < first))
}

/// Copies whole segments and histories, as they are, from the first source that has them. What no source has is named
/// and passed over: it may have been removed on purpose.
async fn give(
    store: &dyn Store,
    sources: &[Arc<dyn Store>],
    segments: &[SegmentName],
) -> Result<(), TailError> {
    let mut objects: Vec<_> = segments
        .iter()
        .map(|segment| layout::object_of(WalFileName::Segment(*segment)))
        .collect();
    for source in sources {
        let histories = source.list(&layout::histories()).await?;
        objects.extend(histories.into_iter().map(|history| history.name));
    }
    let sources: Vec<&Arc<dyn Store>> = sources.iter().collect();
    for object in objects {
        if copy(&object, &sources, store).await? == Copied::NobodyHasIt {
            tracing::warn!(store = store.location(), %object, "a store stays without a segment that no store has");
        }
    }
    Ok(())
}
