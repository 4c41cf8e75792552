//! The growing end of a cluster's WAL: kept in one or several stores up to the last record.
//!
//! Bytes come in order, from a server or from its disk, and each record is checked as it comes. What has come is
//! appended to the segment's partial in every store, one fsync for a group. A segment that is full goes the way of an
//! archived one ([`crate::archive`]), and its partial is removed after that. A later byte is never written before an
//! earlier one is durable, so a store has no hole whenever the writer dies; the failpoints are the moments between.
//!
//! A store in trouble is left behind, and the others go on. When it takes WAL again it is given what it missed from a
//! store that has it.

mod behind;
mod error;
mod look;
mod segment;
mod survey;
mod window;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use skytide_sql::Lsn;
use tokio::task::JoinHandle;
use tokio::time::Instant;

pub use error::TailError;
pub(crate) use error::words;
pub use look::{StoreLook, look};
pub use survey::{StoreEnd, survey};
pub(crate) use survey::{next_after, start_of, survey_all};
pub use window::{Safe, StoreWindow, Window};

use self::behind::Behind;
use self::segment::{Cursor, Growing};
use crate::archive::{self, ArchiveError, Archiver, Kept};
use crate::commit::Outcome;
use crate::decode::{Decoder, Expected, Timelines};
use crate::store::identity::Identity;
use crate::store::partial::{self, Boundary};
use crate::store::{Store, StoreError, layout};
use crate::walsender::Timestamp;
use crate::{HistoryFile, SegmentName, SegmentNo, SegmentSize, TimelineId, WalFileName};

/// So long a store may take for a piece that another one has already. Then that one goes on without it.
const PATIENCE: Duration = Duration::from_secs(2);

/// Segments that are packed and put at the same time.
const MAX_SEALING: usize = 2;

#[derive(Debug, Clone)]
pub struct Settings {
    pub stores: Vec<Arc<dyn Store>>,
    /// How many of the stores must have a byte before it is called safe.
    pub needed: usize,
    /// zstd's level for whole segments.
    pub level: i32,
    pub identity: Identity,
}

/// When what has come has to be durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    Now,
    /// More is on its way already: segments are stored when they are full, and not piece by piece.
    CatchUp,
}

/// Writes WAL into stores, from one segment's start on.
#[derive(Debug)]
pub struct Tail {
    settings: Settings,
    archiver: Arc<Archiver>,
    members: Vec<Member>,
    path: Arc<HistoryFile>,
    decoder: Decoder,
    current: Growing,
    /// Full, and not on their way yet.
    full: VecDeque<Growing>,
    sealing: VecDeque<Sealing>,
    window: Arc<Window>,
}

/// A store, as far as writing goes.
#[derive(Debug)]
enum Member {
    Live(Safe),
    Behind(Safe, Box<Behind>),
}

impl Member {
    fn safe(&self) -> Safe {
        match self {
            Member::Live(safe) | Member::Behind(safe, _) => *safe,
        }
    }

    fn is_live(&self) -> bool {
        matches!(self, Member::Live(_))
    }
}

/// A piece on its way into a store; in the end the bytes of the store's partial.
type Append = JoinHandle<Result<u64, StoreError>>;

type Outcomes = Vec<(usize, Result<Kept, ArchiveError>)>;

/// A full segment that is being packed and put.
#[derive(Debug)]
struct Sealing {
    segment: Growing,
    safe: Safe,
    /// Its bytes are durable already, as a partial.
    in_pieces: bool,
    work: JoinHandle<Result<Outcomes, ArchiveError>>,
}

impl Tail {
    /// Goes on with segment `first` of the timeline that `path` leads to, after what the stores have of it. A store
    /// that cannot be asked now, or whose WAL ends earlier, is behind.
    pub async fn begin(
        settings: Settings,
        path: Arc<HistoryFile>,
        first: SegmentNo,
        window: Arc<Window>,
    ) -> Result<Tail, TailError> {
        let size = settings.identity.segment_size;
        let start = first.start(size);
        let count = settings.stores.len();
        let name = SegmentName::new(path.timeline(), first, size).ok_or(TailError::NoName(start))?;
        let boundary = Boundary {
            lsn: start,
            last_record: None,
        };
        let mut tail = Tail {
            archiver: Arc::new(Archiver::new(archive::Settings {
                stores: settings.stores.clone(),
                needed: settings.needed,
                level: settings.level,
                system_id: Some(settings.identity.system_id),
            })),
            members: (0..count)
                .map(|_| Member::Behind(Safe::default(), Box::new(Behind::unknown(first))))
                .collect(),
            path: path.clone(),
            decoder: Decoder::new(start, size, expected(&settings, &path)),
            current: Growing::new(name, start, boundary, count),
            full: VecDeque::new(),
            sealing: VecDeque::new(),
            window,
            settings,
        };
        let reachable = tail.claim().await?;
        tail.read_before(&path, first, &reachable).await;
        while let Some((wal, location)) = tail.longest_partial(&reachable).await? {
            let segment = tail.current.name;
            let before = tail.current.end();
            tail.take(before, &wal).map_err(|error| match error {
                TailError::Damaged { source, .. } => TailError::DamagedCopy {
                    location,
                    segment,
                    source,
                },
                other => other,
            })?;
            if tail.current.name == segment {
                break;
            }
        }
        tail.join_all(&reachable, first).await?;
        tail.check_anybody()?;
        Ok(tail)
    }

    /// Makes the stores this cluster's. Their places, of those that can be asked.
    async fn claim(&mut self) -> Result<Vec<usize>, TailError> {
        let mut reachable = Vec::new();
        let mut trouble = None;
        for (place, store) in self.settings.stores.iter().enumerate() {
            match self
                .settings
                .identity
                .claim(&**store)
                .await
                .map_err(TailError::from)
            {
                Ok(()) => reachable.push(place),
                Err(error) if error.is_store_trouble() => {
                    self.window.trouble(place, Some(error::words(&error)));
                    trouble = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        match trouble {
            Some(error) if reachable.is_empty() => Err(TailError::NoStore(Box::new(error))),
            _ => Ok(reachable),
        }
    }

    /// Lets the decoder read the segment before, so that a record that goes on in the first one is checked, and the
    /// chain. A record longer than a segment is passed over. It is no loss if nothing is there: then this is where the
    /// WAL in the stores begins.
    async fn read_before(&mut self, path: &Arc<HistoryFile>, first: SegmentNo, reachable: &[usize]) {
        let size = self.settings.identity.segment_size;
        let Some(before) = first.as_u64().checked_sub(1).map(SegmentNo::new) else {
            return;
        };
        for place in reachable {
            let Some(store) = self.settings.stores.get(*place) else {
                continue;
            };
            let Some(bytes) = whole_segment(&**store, path, before, size).await else {
                continue;
            };
            let mut decoder = Decoder::new(before.start(size), size, expected(&self.settings, path));
            let mut last_commit = None;
            if read_records(&mut decoder, &bytes, &mut last_commit).is_ok() {
                self.current.boundary = boundary_of(&decoder, self.current.start);
                self.decoder = decoder;
                self.current.last_commit = last_commit;
                return;
            }
        }
    }

    /// The longest that a store has of the segment, and its location.
    async fn longest_partial(&self, reachable: &[usize]) -> Result<Option<(Vec<u8>, String)>, TailError> {
        let size = self.settings.identity.segment_size;
        let mut longest: Option<(Vec<u8>, String)> = None;
        let stores = self.settings.stores.iter().enumerate();
        for (_, store) in stores.filter(|(place, _)| reachable.contains(place)) {
            let read = match partial::read(&**store, self.current.name, size).await {
                Ok(Some(read)) => read,
                Ok(None) => continue,
                // Joining meets the same trouble, and leaves the store behind.
                Err(error) => {
                    let error: &dyn std::error::Error = &error;
                    tracing::warn!(error, "what a store has of the last segment cannot be read");
                    continue;
                }
            };
            if longest.as_ref().is_none_or(|(wal, _)| wal.len() < read.wal.len()) {
                longest = Some((read.wal, store.location().to_owned()));
            }
        }
        Ok(longest.filter(|(wal, _)| !wal.is_empty()))
    }

    /// The next byte to take.
    pub fn end(&self) -> Lsn {
        self.current.end()
    }

    pub fn timeline(&self) -> TimelineId {
        self.path.timeline()
    }

    pub fn segment_start(&self) -> Lsn {
        self.current.start
    }

    pub fn segment_bytes(&self) -> u64 {
        self.settings.identity.segment_size.bytes()
    }

    pub fn segment_end(&self) -> Lsn {
        Lsn::new(self.current.start.as_u64() + self.segment_bytes())
    }

    /// The end of the last whole record that was taken.
    pub fn boundary(&self) -> Lsn {
        self.current.boundary.lsn
    }

    /// The server's clock when the last transaction committed that was taken.
    pub fn last_commit(&self) -> Option<Timestamp> {
        self.current.last_commit
    }

    /// Up to here as many stores as are needed have the WAL on their disks. 0/0: not known yet.
    pub fn safe_lsn(&self) -> Lsn {
        let mut durable: Vec<Lsn> = self.members.iter().map(|member| member.safe().durable).collect();
        durable.sort_unstable_by(|a, b| b.cmp(a));
        let last_needed = self.settings.needed.saturating_sub(1);
        durable.get(last_needed).copied().unwrap_or(Lsn::INVALID)
    }

    /// All stores take WAL.
    pub fn is_whole(&self) -> bool {
        self.members.iter().all(Member::is_live)
    }

    /// Bytes that were taken and are not on their way into the stores yet.
    pub fn has_unpublished(&self) -> bool {
        let waits = |(place, member): (usize, &Member)| {
            member.is_live() && self.current.cursor(place).sent < self.current.wal.len()
        };
        !self.full.is_empty() || self.members.iter().enumerate().any(waits)
    }

    /// Something has to be looked after though nothing comes.
    pub fn has_work(&self) -> bool {
        self.has_unpublished() || !self.sealing.is_empty() || !self.is_whole()
    }

    /// The last segment's bytes so far.
    pub(crate) fn current_wal(&self) -> (SegmentName, &[u8]) {
        (self.current.name, &self.current.wal)
    }

    /// Takes the bytes from [`Tail::end`] on. After an error what is good has been taken, and nothing else will be.
    pub fn take(&mut self, lsn: Lsn, mut bytes: &[u8]) -> Result<(), TailError> {
        if lsn != self.end() {
            return Err(TailError::OutOfPlace {
                expected: self.end(),
                found: lsn,
            });
        }
        let size = usize::try_from(self.settings.identity.segment_size.bytes()).unwrap_or(usize::MAX);
        while !bytes.is_empty() {
            let room = size.saturating_sub(self.current.wal.len());
            let (now, rest) = bytes.split_at(room.min(bytes.len()));
            bytes = rest;
            let end = self.end();
            let read = read_records(&mut self.decoder, now, &mut self.current.last_commit);
            self.current.boundary = boundary_of(&self.decoder, self.current.start);
            read.map_err(|source| TailError::Damaged { end, source })?;
            if self.current.wal.capacity() == 0 && now.len() < size {
                // Segments that come piece by piece come whole in the end.
                self.current.wal.reserve_exact(size);
            }
            self.current.wal.extend_from_slice(now);
            if self.current.wal.len() == size {
                self.roll()?;
            }
        }
        Ok(())
    }

    fn roll(&mut self) -> Result<(), TailError> {
        let size = self.settings.identity.segment_size;
        let start = self.current.end();
        let number = SegmentNo::holding(start, size);
        let name = SegmentName::new(self.timeline(), number, size).ok_or(TailError::NoName(start))?;
        let boundary = Boundary {
            lsn: self.current.boundary.lsn,
            last_record: self.decoder.last_record(),
        };
        let mut next = Growing::new(name, start, boundary, self.members.len());
        next.last_commit = self.current.last_commit;
        self.full.push_back(std::mem::replace(&mut self.current, next));
        Ok(())
    }

    /// Makes what was taken durable, as far as the pace wants it. An error means that no store takes WAL any more, or
    /// that they must not be given any.
    pub async fn publish(&mut self, pace: Pace) -> Result<(), TailError> {
        // A full segment stays in the queue until it is sealed: a store that is left behind meanwhile lacks it.
        while !self.full.is_empty() {
            let in_pieces = pace == Pace::Now;
            if in_pieces {
                self.settle_before_pieces().await?;
                if let Some(mut segment) = self.full.pop_front() {
                    self.append(&mut segment).await;
                    self.full.push_front(segment);
                }
            }
            while self.sealing.len() >= MAX_SEALING {
                self.settle_first().await?;
            }
            if let Some(segment) = self.full.pop_front() {
                self.seal(segment, in_pieces);
            }
        }
        while self.sealing.front().is_some_and(|first| first.work.is_finished()) {
            self.settle_first().await?;
        }
        if pace == Pace::Now {
            self.settle_before_pieces().await?;
            if self.has_unpublished() {
                let nothing = Growing::new(self.current.name, self.current.start, self.current.boundary, 0);
                let mut current = std::mem::replace(&mut self.current, nothing);
                self.append(&mut current).await;
                self.current = current;
            }
        }
        self.tend().await?;
        self.check_anybody()
    }

    /// Waits until everything that was taken is durable and every full segment is in its place.
    pub async fn finish(&mut self) -> Result<(), TailError> {
        self.publish(Pace::Now).await?;
        while !self.sealing.is_empty() {
            self.settle_first().await?;
        }
        self.check_anybody()
    }

    /// Puts the history file of a timeline into the stores that take WAL.
    pub async fn put_history(&mut self, timeline: TimelineId, text: Vec<u8>) -> Result<(), TailError> {
        let name = WalFileName::History(timeline);
        let outcomes = self.archiver.archive_bytes(name, text, &self.live()).await?;
        for (place, outcome) in outcomes {
            match outcome {
                Ok(_) => {}
                Err(error) if error.is_store_trouble() => self.leave_behind(place, error.into()),
                Err(error) => return Err(error.into()),
            }
        }
        self.check_anybody()
    }

    fn live(&self) -> Vec<usize> {
        let members = self.members.iter().enumerate();
        members
            .filter(|(_, member)| member.is_live())
            .map(|(place, _)| place)
            .collect()
    }

    /// Appends to the partials of all live stores at once. When one of them has the piece, the others have [`PATIENCE`].
    async fn append(&mut self, segment: &mut Growing) {
        let name = layout::partial_of(segment.name);
        let mut appends = Vec::new();
        let mut ready = None;
        for place in self.live() {
            let cursor = segment.cursor(place);
            let (Some(store), sent) = (self.settings.stores.get(place).cloned(), cursor.sent) else {
                continue;
            };
            // Nearly always all of them lack the same.
            let piece = match &ready {
                Some((from, piece)) if *from == sent => Ok(Some(Clone::clone(piece))),
                _ => segment.piece_from(sent),
            };
            if let Ok(Some(piece)) = &piece {
                ready = Some((sent, piece.clone()));
            }
            let name = name.clone();
            let append = tokio::spawn(async move {
                match piece {
                    Ok(Some(piece)) => store.append(&name, cursor.at, piece).await,
                    Ok(None) => Ok(cursor.at),
                    Err(error) => Err(error),
                }
            });
            appends.push((place, append));
        }
        let appended = ended_in_time(&mut appends).await;
        fail::fail_point!("tail::appended");
        let safe = safe_at(segment);
        // The segment in hand is in no queue.
        let lacks = self
            .sealing
            .front()
            .map_or(segment.name, |sealing| sealing.segment.name);
        for (place, result) in appended {
            match result {
                Ok(at) => {
                    let sent = segment.wal.len();
                    segment.set_cursor(place, Cursor { at, sent });
                    self.now_safe(place, safe);
                }
                Err(error) => self.leave_behind_at(place, error.into(), lacks),
            }
        }
        for (place, append) in appends {
            self.leave_behind_at(place, self.slow(place), lacks);
            if let Some(Member::Behind(_, behind)) = self.members.get_mut(place) {
                behind.wait_for(append);
            }
        }
    }

    fn slow(&self, place: usize) -> TailError {
        let store = self.settings.stores.get(place);
        TailError::Slow {
            location: store.map_or_else(String::new, |store| store.location().to_owned()),
        }
    }

    fn now_safe(&mut self, place: usize, safe: Safe) {
        if let Some(Member::Live(held)) = self.members.get_mut(place)
            && safe.durable >= held.durable
        {
            *held = safe;
            self.window.safe(place, safe);
        }
    }

    fn seal(&mut self, mut segment: Growing, in_pieces: bool) {
        let archiver = self.archiver.clone();
        let (name, into) = (WalFileName::Segment(segment.name), self.live());
        let safe = safe_at(&segment);
        let wal = std::mem::take(&mut segment.wal);
        self.sealing.push_back(Sealing {
            safe,
            segment,
            in_pieces,
            work: tokio::spawn(async move { archiver.archive_bytes(name, wal, &into).await }),
        });
    }

    /// Pieces may be written when everything before them is durable.
    async fn settle_before_pieces(&mut self) -> Result<(), TailError> {
        while self.sealing.iter().any(|sealing| !sealing.in_pieces) {
            self.settle_first().await?;
        }
        Ok(())
    }

    /// Waits for the oldest segment on its way. Where it has arrived, its partial has done its service.
    async fn settle_first(&mut self) -> Result<(), TailError> {
        let Some(sealing) = self.sealing.pop_front() else {
            return Ok(());
        };
        let outcomes = match sealing.work.await {
            Ok(outcomes) => outcomes?,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => return Err(TailError::GivenUp(sealing.segment.name)),
        };
        fail::fail_point!("tail::sealed");
        let partial = layout::partial_of(sealing.segment.name);
        for (place, outcome) in outcomes {
            match outcome {
                Ok(_) => {
                    let store = self.settings.stores.get(place);
                    // A partial that stays harms nobody: whoever reads prefers the whole segment.
                    if let Some(store) = store {
                        let deleted = tokio::time::timeout(PATIENCE, store.delete_partial(&partial)).await;
                        let slow = self.slow(place);
                        match deleted {
                            Ok(Ok(())) => {}
                            Ok(Err(error)) => self.leave_behind(place, error.into()),
                            Err(_) => self.leave_behind(place, slow),
                        }
                    }
                    self.now_safe(place, sealing.safe);
                }
                Err(error) if error.is_store_trouble() => {
                    self.leave_behind_at(place, error.into(), sealing.segment.name)
                }
                Err(error) => return Err(error.into()),
            }
        }
        fail::fail_point!("tail::settled");
        Ok(())
    }

    fn check_anybody(&mut self) -> Result<(), TailError> {
        if self.members.iter().any(Member::is_live) {
            return Ok(());
        }
        let trouble = self.members.iter_mut().find_map(|member| match member {
            Member::Behind(_, behind) => behind.take_trouble(),
            Member::Live(_) => None,
        });
        let trouble = trouble.unwrap_or(TailError::GivenUp(self.current.name));
        Err(TailError::NoStore(Box::new(trouble)))
    }
}

/// What came of the appends that ended; those that are left in `appends` have taken too long.
async fn ended_in_time(appends: &mut Vec<(usize, Append)>) -> Vec<(usize, Result<u64, StoreError>)> {
    let mut ended = Vec::new();
    let mut deadline = None;
    let mut waits: FuturesUnordered<_> = appends
        .iter_mut()
        .map(|(place, append)| async { (*place, append.await) })
        .collect();
    loop {
        let patience = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        let (place, joined) = tokio::select! {
            biased;
            next = waits.next() => match next {
                Some(next) => next,
                None => break,
            },
            () = patience => break,
        };
        match joined {
            Ok(result) => {
                if result.is_ok() {
                    deadline.get_or_insert_with(|| Instant::now() + PATIENCE);
                }
                ended.push((place, result));
            }
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // Nobody aborts them.
            Err(_) => {}
        }
    }
    drop(waits);
    appends.retain(|(place, _)| !ended.iter().any(|(ended, _)| ended == place));
    ended
}

/// What a store has that has all of the segment's bytes.
fn safe_at(segment: &Growing) -> Safe {
    Safe {
        durable: segment.end(),
        boundary: segment.boundary.lsn,
        last_commit: segment.last_commit,
    }
}

fn expected(settings: &Settings, path: &Arc<HistoryFile>) -> Expected {
    Expected {
        system_id: Some(settings.identity.system_id),
        timelines: Timelines::Of(path.clone()),
        ..Expected::default()
    }
}

fn boundary_of(decoder: &Decoder, start: Lsn) -> Boundary {
    Boundary {
        lsn: decoder.record_boundary().unwrap_or(start),
        last_record: decoder.last_record(),
    }
}

/// Reads all records, and notes when the last transaction committed.
fn read_records(
    decoder: &mut Decoder,
    bytes: &[u8],
    last_commit: &mut Option<Timestamp>,
) -> Result<(), crate::WalError> {
    count_records(decoder, bytes, &mut 0, last_commit)
}

/// Reads all records, counts them, and notes when the last transaction committed.
pub(crate) fn count_records(
    decoder: &mut Decoder,
    bytes: &[u8],
    records: &mut u64,
    last_commit: &mut Option<Timestamp>,
) -> Result<(), crate::WalError> {
    let mut feed = decoder.feed(bytes);
    while let Some(record) = feed.next_record()? {
        *records += 1;
        if let Some(end) = record.transaction_end()
            && end.outcome == Outcome::Committed
        {
            *last_commit = Some(end.time);
        }
    }
    Ok(())
}

/// The names that a segment may have on the way to a timeline, the newest first.
pub(crate) fn names_of(path: &HistoryFile, number: SegmentNo, size: SegmentSize) -> Vec<SegmentName> {
    let ancestors = path.ancestors().iter().map(|ancestor| ancestor.timeline);
    let timelines: Vec<TimelineId> = ancestors.chain([path.timeline()]).collect();
    let named = |timeline: &TimelineId| {
        let (begin, end) = path.range_of(*timeline)?;
        let is_of = number.end(size) > begin && end.is_none_or(|end| number.start(size) < end);
        SegmentName::new(*timeline, number, size).filter(|_| is_of)
    };
    timelines.iter().rev().filter_map(named).collect()
}

/// A segment that the store has as a whole.
async fn whole_segment(
    store: &dyn Store,
    path: &HistoryFile,
    number: SegmentNo,
    size: SegmentSize,
) -> Option<Vec<u8>> {
    for name in names_of(path, number, size) {
        if let Ok(Some(packed)) = store.get(&layout::object_of(WalFileName::Segment(name))).await {
            let unpacked = tokio::task::spawn_blocking(move || crate::pack::unpack(&packed)).await;
            let bytes = unpacked.ok().and_then(Result::ok).map(|(_, bytes)| bytes);
            return bytes.filter(|bytes| bytes.len() as u64 == size.bytes());
        }
    }
    None
}
