//! The spool: what capture decoded, on local disk, until every reader is done with it.
//!
//! One directory a queue, one [`Writer`], any number of [`Reader`]s, an append-only log of memory-mapped segments. The bytes are
//! in `docs/format/spool.md`. No SQL and no async here: plain calls, and one thread that syncs.
//!
//! Positions of the end, each never ahead of the one before it: appended ([`Writer::end_lsn`]), published (what readers
//! see), durable ([`Spool::durable_lsn`], the only one to report as flushed).

mod along;
mod dictionary;
mod entry;
mod error;
mod format;
mod index;
mod limit;
mod lock;
mod map;
mod reader;
mod recover;
mod segment;
mod sync;
#[cfg(test)]
mod tests;
mod writer;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use skytide_sql::{Lsn, TickId};

use crate::change::{Relation, RelationId};
use dictionary::Dictionary;
use limit::Retention;
use reader::Scratch;
use recover::{Mode, Survey};
use segment::Segment;

pub use entry::{Entry, PartRef, TickEntry, TxHead};
pub use error::SpoolError;
pub use format::{Identity, SpoolPos};
pub use limit::{Hold, Space};
pub use reader::{Block, Entries, PartReader, Reader};
pub use writer::{Settings, Writer};

use format::{HEADER, VERSION};

type Listener = Box<dyn Fn() + Send + Sync>;

/// Called in the order they came, on the thread where the thing happened. They must be quick, and must
/// not add listeners.
#[derive(Default)]
struct Listeners(RwLock<Vec<Listener>>);

impl Listeners {
    fn add(&self, listener: Listener) {
        self.0
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .push(listener);
    }

    fn call(&self) {
        for listener in self.0.read().unwrap_or_else(PoisonError::into_inner).iter() {
            listener();
        }
    }
}

/// What writer and readers share.
pub struct Spool {
    dir: PathBuf,
    identity: Identity,
    segment_bytes: u64,
    read_only: bool,
    /// By number, contiguous, never empty.
    segments: RwLock<BTreeMap<u64, Arc<Segment>>>,
    end: AtomicU64,
    durable: AtomicU64,
    durable_lsn: AtomicU64,
    dictionary: Dictionary,
    scratch: Scratch,
    retention: Retention,
    poison: OnceLock<String>,
    on_publish: Listeners,
    on_durable: Listeners,
    on_release: Listeners,
}

/// Figures for status and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stats {
    /// On disk: whole segments.
    pub bytes: u64,
    pub segments: u64,
    pub begin: SpoolPos,
    pub end: SpoolPos,
    /// Published bytes that are not released.
    pub used_bytes: u64,
    /// Committed transactions in what is kept.
    pub transactions: u64,
    pub last_tick: Option<TickId>,
    pub durable_lsn: Lsn,
}

impl Spool {
    fn assemble(
        dir: PathBuf,
        survey: &mut Survey,
        tail: Option<Arc<Segment>>,
        read_only: bool,
    ) -> Result<Spool, SpoolError> {
        let sealed = survey.sealed.drain(..).map(Arc::new);
        let segments: BTreeMap<_, _> = sealed.chain(tail).map(|s| (s.header.number, s)).collect();
        let Some(last) = segments.values().next_back() else {
            return Err(SpoolError::Empty { dir });
        };
        let header = &last.header;
        let end = SpoolPos::at(header.number, header.segment_bytes, last.map.published().len());
        let lsn = last.index().end_lsn;
        let dictionary = Dictionary::default();
        for relation in &survey.relations {
            dictionary.learn(relation.id, &relation.message)?;
        }
        Ok(Spool {
            dir,
            identity: header.identity.clone(),
            segment_bytes: header.segment_bytes,
            read_only,
            end: AtomicU64::new(end.as_u64()),
            durable: AtomicU64::new(end.as_u64()),
            durable_lsn: AtomicU64::new(lsn.as_u64()),
            segments: RwLock::new(segments),
            dictionary,
            scratch: Scratch::default(),
            retention: Retention::default(),
            poison: OnceLock::new(),
            on_publish: Listeners::default(),
            on_durable: Listeners::default(),
            on_release: Listeners::default(),
        })
    }

    /// Opens a directory for looking, perhaps beside its running writer: shows what was there at this
    /// moment, up to the first frame that is not whole.
    pub fn open_read_only(dir: impl AsRef<Path>) -> Result<Arc<Spool>, SpoolError> {
        let dir = dir.as_ref();
        let look = || {
            let mut survey = recover::survey(dir, None, Mode::Read)?;
            let tail = survey.tail_for_reading()?;
            let is_open = tail.is_some();
            let spool = Spool::assemble(dir.to_owned(), &mut survey, tail, true)?;
            if !is_open {
                spool.last_segment().iter().for_each(|last| last.seal());
            }
            Ok(Arc::new(spool))
        };
        // Beside a writer, segments come and go. Only what is wrong twice in the same place is wrong.
        let mut before = String::new();
        for _ in 0..3 {
            match look() {
                Err(e @ (SpoolError::Corrupt { .. } | SpoolError::Io { .. })) if e.to_string() != before => {
                    before = e.to_string();
                }
                seen => return seen,
            }
        }
        look()
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Segments' size, as chosen when the spool was made.
    pub fn segment_bytes(&self) -> u64 {
        self.segment_bytes
    }

    /// The first block that is kept.
    pub fn begin(&self) -> SpoolPos {
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        let first = segments.first_key_value().map_or(0, |(number, _)| *number);
        SpoolPos::at(first, self.segment_bytes, HEADER)
    }

    /// Where the next block will be published.
    pub fn end(&self) -> SpoolPos {
        SpoolPos::new(self.end.load(Ordering::Acquire))
    }

    fn durable(&self) -> SpoolPos {
        SpoolPos::new(self.durable.load(Ordering::Acquire))
    }

    fn set_durable(&self, position: SpoolPos, lsn: Lsn) {
        self.durable.store(position.as_u64(), Ordering::Release);
        self.durable_lsn.store(lsn.as_u64(), Ordering::Release);
    }

    /// Everything that committed up to here is on disk.
    pub fn durable_lsn(&self) -> Lsn {
        Lsn::new(self.durable_lsn.load(Ordering::Acquire))
    }

    /// Reads from `from` on: a block boundary, or [`Spool::begin`].
    pub fn reader(self: &Arc<Self>, from: SpoolPos) -> Reader {
        Reader::new(Arc::clone(self), from)
    }

    /// The block that holds the tick; the latest one if it came twice.
    pub fn find_tick(&self, tick: TickId) -> Result<Option<SpoolPos>, SpoolError> {
        let end = self.end();
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        let found = segments.values().rev().find_map(|segment| {
            let index = segment.index();
            let of_tick = |(id, block): &(TickId, SpoolPos)| (*id == tick && *block < end).then_some(*block);
            index.ticks.iter().rev().find_map(of_tick)
        });
        Ok(found)
    }

    /// The first tick that is kept.
    pub fn first_tick(&self) -> Option<TickId> {
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        segments
            .values()
            .find_map(|s| s.index().ticks.first().map(|(tick, _)| *tick))
    }

    /// The last tick that is published.
    pub fn last_tick(&self) -> Option<TickId> {
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        segments
            .values()
            .rev()
            .find_map(|s| s.index().ticks.last().map(|(tick, _)| *tick))
    }

    /// What an id in a row record stands for. Known from the moment the block that declares it is published.
    pub fn relation(&self, id: RelationId) -> Option<Arc<Relation>> {
        self.dictionary.get(id)
    }

    /// Appends the row records of a part to `buffer`. [`PartReader`] is the quicker way to read many.
    pub fn read_part(self: &Arc<Self>, part: &PartRef, buffer: &mut Vec<u8>) -> Result<(), SpoolError> {
        buffer.extend_from_slice(self.block_at(part.block)?.rows(part)?);
        Ok(())
    }

    /// Called after blocks became visible to readers.
    pub fn on_publish(&self, listener: Listener) {
        self.on_publish.add(listener);
    }

    /// Called after [`Spool::durable_lsn`] advanced, or the spool was poisoned.
    pub fn on_durable(&self, listener: Listener) {
        self.on_durable.add(listener);
    }

    /// Called after segments were deleted, so that a full spool has room again.
    pub fn on_release(&self, listener: Listener) {
        self.on_release.add(listener);
    }

    pub fn stats(&self) -> Stats {
        let (begin, end) = (self.begin(), self.end());
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        let count = segments.len() as u64;
        Stats {
            bytes: count * self.segment_bytes,
            segments: count,
            begin,
            end,
            used_bytes: end.as_u64().saturating_sub(begin.as_u64()),
            transactions: segments.values().map(|s| s.index().transactions).sum(),
            last_tick: segments.values().next_back().and_then(|s| s.index().last_tick),
            durable_lsn: self.durable_lsn(),
        }
    }

    fn last_segment(&self) -> Option<Arc<Segment>> {
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        segments.values().next_back().cloned()
    }

    fn segment(&self, number: u64) -> Option<Arc<Segment>> {
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        segments.get(&number).cloned()
    }

    fn segment_or_released(&self, position: SpoolPos) -> Result<Arc<Segment>, SpoolError> {
        let found = self.segment(position.segment(self.segment_bytes));
        found.ok_or_else(|| SpoolError::Released {
            wanted: position,
            begin: self.begin(),
        })
    }

    fn poison(&self, cause: &SpoolError) {
        // The first cause stays.
        let _ = self.poison.set(cause.to_string());
    }

    /// Fails once a sync failed; then the spool has to be reopened.
    pub fn check(&self) -> Result<(), SpoolError> {
        match self.poison.get() {
            None => Ok(()),
            Some(cause) => Err(SpoolError::Poisoned {
                dir: self.dir.clone(),
                cause: cause.clone(),
            }),
        }
    }
}

/// Empties a spool directory whose content nothing depends on any more.
///
/// # Errors
/// A writer has it open, or a file cannot be removed. Files that are not a spool's stay.
pub fn remove(dir: &Path) -> Result<(), SpoolError> {
    let _lock = match lock::Lock::take(dir) {
        Err(SpoolError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        lock => lock?,
    };
    // Oldest first and sidecars before segments, as retention does: killed here, the rest is a spool.
    for number in segment::list(dir)? {
        segment::remove(&segment::index_path(dir, number))?;
        segment::remove(&segment::segment_path(dir, number))?;
    }
    Ok(())
}
