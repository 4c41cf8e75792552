//! Appending: entries collect in an open block, blocks go into the mapped segment, segments follow each other.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use skytide_sql::{Lsn, TickId, Xid32};

use super::dictionary::{Versions, parse_relation};
use super::entry::{self, Entry, PartRef, TickEntry, TxHead};
use super::format::{
    FRAME, FrameHead, FrameKind, HEADER, Identity, SegmentHeader, SpoolPos, length, valid_segment_bytes,
};
use super::index::SegmentIndex;
use super::lock::Lock;
use super::map::MapWriter;
use super::recover::{self, Mode};
use super::segment::{self, Segment};
use super::sync::SyncThread;
use super::{Listener, Space, Spool, SpoolError};
use crate::change::RelationId;

/// How a spool is kept.
#[derive(Clone, Debug)]
pub struct Settings {
    pub dir: PathBuf,
    /// Size of a segment file; default 64 MiB, 1 MiB to 1 GiB, a multiple of 4096. A spool keeps the size it was
    /// made with. A row must fit into one segment.
    pub segment_bytes: u64,
    /// Most bytes of all segments together; at least two segments.
    pub max_bytes: u64,
    /// A block is closed once it has this many bytes of rows; default 256 KiB.
    pub block_bytes: usize,
    /// zstd level, usually 1 to 3; `None` stores rows as they are.
    pub compression: Option<i32>,
}

impl Settings {
    pub const SEGMENT_BYTES: u64 = 64 << 20;
    pub const BLOCK_BYTES: usize = 256 << 10;

    /// The defaults for a directory: at most 16 GiB, zstd level 1.
    pub fn new(dir: impl Into<PathBuf>) -> Settings {
        Settings {
            dir: dir.into(),
            segment_bytes: Settings::SEGMENT_BYTES,
            max_bytes: 16 << 30,
            block_bytes: Settings::BLOCK_BYTES,
            compression: Some(1),
        }
    }

    fn check(&self) -> Result<(), SpoolError> {
        let bad = |setting, why: String| Err(SpoolError::Setting { setting, why });
        if !valid_segment_bytes(self.segment_bytes) {
            let why = format!(
                "{} is not a multiple of 4096 from 1 MiB to 1 GiB",
                self.segment_bytes
            );
            return bad("segment_bytes", why);
        }
        if self.block_bytes < 1024 || self.block_bytes as u64 > self.segment_bytes / 2 {
            let why = format!("{} is not between 1024 and half a segment", self.block_bytes);
            return bad("block_bytes", why);
        }
        match self.compression {
            Some(level) if !(1..=19).contains(&level) => bad("compression", format!("no zstd level {level}")),
            _ => Ok(()),
        }
    }
}

/// Smaller payloads are not worth a try.
const COMPRESS_FROM: usize = 1024;
/// Kept free behind a transaction, so that its tick stands in the same block.
const TICK_RESERVE: usize = 8192;
/// Larger buffers are given back after a huge row.
const KEEP_CAPACITY: usize = 4 << 20;
/// A segment with less room than this is closed rather than filled with ever smaller blocks.
const LEAST_ROOM: usize = 64 << 10;

/// The block that is being filled. It will stand at the writer's cursor.
#[derive(Default)]
struct OpenBlock {
    toc: Vec<u8>,
    raw: Vec<u8>,
    entries: u32,
    /// What it adds to the segment's index.
    index: SegmentIndex,
    /// Where in `toc` the last entry begins, if that is a Progress.
    progress_at: Option<usize>,
}

/// The one who appends.
pub struct Writer {
    // Ends, with its last sync, before the lock goes.
    sync: SyncThread,
    spool: Arc<Spool>,
    settings: Settings,
    map: MapWriter,
    segment: Arc<Segment>,
    /// Where in the segment the open block will stand.
    cursor: usize,
    block: OpenBlock,
    compressor: Option<zstd::bulk::Compressor<'static>>,
    packed: Vec<u8>,
    versions: Versions,
    next_relation: u32,
    end_lsn: Lsn,
    last_tick: Option<TickId>,
    /// What listeners were told of.
    announced: SpoolPos,
    lock: Lock,
}

impl Writer {
    /// Creates the spool, or opens and recovers it.
    pub fn open(mut settings: Settings, identity: Identity) -> Result<(Writer, Arc<Spool>), SpoolError> {
        settings.check()?;
        if identity.database.len() > 1024 {
            return Err(SpoolError::Setting {
                setting: "database",
                why: "the name is longer than 1024 bytes".into(),
            });
        }
        let dir = settings.dir.clone();
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder
            .create(&dir)
            .map_err(SpoolError::io("create directory", &dir))?;
        let lock = Lock::take(&dir)?;

        let mut survey = recover::survey(&dir, Some(&identity), Mode::Write)?;
        let tail = survey.repair(&dir)?;
        let declared_next = survey.relations.iter().map(|r| r.id.0 + 1).max().unwrap_or(1);
        let (segment, map) = match tail {
            Some(tail) => tail,
            None => {
                let last = survey.sealed.last();
                let index = last.map(|s| s.index().clone()).unwrap_or_default();
                let header = SegmentHeader {
                    number: survey.next_number,
                    segment_bytes: last.map_or(settings.segment_bytes, |s| s.header.segment_bytes),
                    identity,
                    start_lsn: index.end_lsn,
                    last_tick: index.last_tick,
                    created: segment::now(),
                    next_relation: declared_next,
                };
                let (segment, map) = segment::create(&dir, header)?;
                segment.sync()?;
                segment::sync_dir(&dir)?;
                (segment, map)
            }
        };
        survey.vouch(&dir)?;
        settings.segment_bytes = segment.header.segment_bytes;
        settings.block_bytes = settings.block_bytes.min((settings.segment_bytes / 2) as usize);
        if settings.max_bytes < 2 * settings.segment_bytes {
            let why = format!("{} is less than two segments", settings.max_bytes);
            return Err(SpoolError::Setting {
                setting: "max_bytes",
                why,
            });
        }
        let next_relation = declared_next.max(segment.header.next_relation);
        let spool = Spool::assemble(dir.clone(), &mut survey, Some(Arc::clone(&segment)), false)?;
        let spool = Arc::new(spool);
        let mut versions = Versions::default();
        for relation in &survey.relations {
            versions.declare(relation.id, &relation.message, relation.segment);
        }
        let (end_lsn, last_tick) = {
            let index = segment.index();
            (index.end_lsn, index.last_tick)
        };
        let compressor = settings.compression.map(zstd::bulk::Compressor::new).transpose();
        let writer = Writer {
            sync: SyncThread::start(&spool, &segment, end_lsn)?,
            spool: Arc::clone(&spool),
            cursor: map.map().published().len(),
            map,
            segment,
            block: OpenBlock::default(),
            compressor: compressor.map_err(SpoolError::io("prepare compression for", &dir))?,
            packed: Vec::new(),
            versions,
            next_relation,
            end_lsn,
            last_tick,
            settings,
            announced: spool.end(),
            lock,
        };
        Ok(writer.redeclare_if_new())
    }

    /// A tail that recovery left without any block has to start with the known relations, as each segment does.
    fn redeclare_if_new(mut self) -> (Writer, Arc<Spool>) {
        if self.cursor == HEADER {
            self.declare_current(self.segment.header.number.saturating_sub(1));
            self.close_block();
        }
        let spool = Arc::clone(&self.spool);
        (self, spool)
    }

    /// Everything that committed up to it has been appended.
    pub fn end_lsn(&self) -> Lsn {
        self.end_lsn
    }

    pub fn last_tick(&self) -> Option<TickId> {
        self.last_tick
    }

    /// Most bytes of rows that one call may append.
    pub fn max_rows(&self) -> usize {
        self.capacity()
            .saturating_sub(TICK_RESERVE + entry::TRANSACTION_SIZE)
    }

    /// The id of a table's shape, given the body of pgoutput's Relation message. The same bytes give the same id.
    pub fn relation(&mut self, message: &[u8]) -> Result<RelationId, SpoolError> {
        if let Some(id) = self.versions.find(message, self.segment.header.number) {
            return Ok(id);
        }
        parse_relation(message)?;
        self.make_room(entry::relation_size(message), 0, 0)?;
        // Making room may have opened a segment, which declares what is current.
        if let Some(id) = self.versions.find(message, self.segment.header.number) {
            return Ok(id);
        }
        let id = match self.versions.known(message) {
            Some(id) => id,
            None => {
                let id = RelationId(self.next_relation);
                self.next_relation += 1;
                id
            }
        };
        self.declare(id, message);
        self.spool.dictionary.learn(id, message)?;
        Ok(id)
    }

    fn declare(&mut self, id: RelationId, message: &[u8]) {
        entry::put_relation(&mut self.block.toc, id, message);
        self.added(&Entry::Relation { id, message });
        self.versions.declare(id, message, self.segment.header.number);
    }

    /// The shape that an id stands for.
    pub fn shape(&self, id: RelationId) -> Option<Arc<crate::change::Relation>> {
        self.spool.dictionary.get(id)
    }

    /// Refuses another server than the one the spool was filled from.
    pub fn check_server(&self, system_id: u64, timeline: u32) -> Result<(), SpoolError> {
        let ours = &self.spool.identity;
        let differs = |field, expected: String, found: String| {
            Err(SpoolError::Identity {
                field,
                expected,
                found,
                dir: self.spool.dir.clone(),
            })
        };
        if ours.system_id != system_id {
            return differs("server", system_id.to_string(), ours.system_id.to_string());
        }
        if ours.timeline != timeline {
            return differs("timeline", timeline.to_string(), ours.timeline.to_string());
        }
        Ok(())
    }

    /// Appends a whole transaction.
    pub fn transaction(&mut self, head: TxHead, rows: &[u8], row_count: u32) -> Result<(), SpoolError> {
        self.make_room(entry::TRANSACTION_SIZE, rows.len(), TICK_RESERVE)?;
        let rows = self.put_rows(rows);
        entry::put_transaction(&mut self.block.toc, &head, &rows, row_count);
        self.block.entries += 1;
        self.block.progress_at = None;
        self.block.index.transactions += 1;
        self.end_lsn = self.end_lsn.max(head.end_lsn);
        Ok(())
    }

    /// Appends a piece of a transaction that has not committed.
    pub fn part(&mut self, xid: Xid32, rows: &[u8], row_count: u32) -> Result<PartRef, SpoolError> {
        self.make_room(entry::PART_SIZE, rows.len(), 0)?;
        let rows = self.put_rows(rows);
        entry::put_part(&mut self.block.toc, xid, &rows, row_count);
        self.added(&Entry::Part { xid, rows, row_count });
        Ok(rows)
    }

    /// Makes parts a transaction.
    pub fn commit(
        &mut self,
        head: TxHead,
        parts: Vec<PartRef>,
        aborted: Vec<Xid32>,
        row_count: u64,
        bytes: u64,
    ) -> Result<(), SpoolError> {
        self.make_room(entry::commit_size(parts.len(), aborted.len()), 0, TICK_RESERVE)?;
        entry::put_commit(&mut self.block.toc, &head, &parts, &aborted, row_count, bytes);
        self.block.entries += 1;
        self.block.progress_at = None;
        self.block.index.transactions += 1;
        self.end_lsn = self.end_lsn.max(head.end_lsn);
        Ok(())
    }

    /// A streamed transaction gave up.
    pub fn abort(&mut self, xid: Xid32) -> Result<(), SpoolError> {
        self.make_room(entry::ABORT_SIZE, 0, 0)?;
        entry::put_abort(&mut self.block.toc, xid);
        self.added(&Entry::Abort { xid });
        Ok(())
    }

    /// Appends a tick, right after the transaction that made it.
    pub fn tick(&mut self, tick: TickEntry) -> Result<(), SpoolError> {
        self.make_room_for_tick(entry::tick_size(&tick.snapshot))?;
        entry::put_tick(&mut self.block.toc, &tick);
        self.last_tick = Some(tick.tick_id);
        self.added(&Entry::Tick(tick));
        Ok(())
    }

    /// A new capture connection began.
    pub fn session(&mut self, from_lsn: Lsn) -> Result<(), SpoolError> {
        self.make_room(entry::LSN_ENTRY_SIZE, 0, 0)?;
        entry::put_session(&mut self.block.toc, from_lsn);
        self.added(&Entry::Session { from_lsn });
        Ok(())
    }

    /// Nothing of this queue committed up to `lsn`. Costs nothing if that was known.
    pub fn progress(&mut self, lsn: Lsn) -> Result<(), SpoolError> {
        if lsn <= self.end_lsn {
            return self.spool.check();
        }
        if let Some(at) = self.block.progress_at {
            self.spool.check()?;
            self.block.toc.truncate(at);
            entry::put_progress(&mut self.block.toc, lsn);
            self.end_lsn = lsn;
            return Ok(());
        }
        self.make_room(entry::LSN_ENTRY_SIZE, 0, 0)?;
        let at = self.block.toc.len();
        entry::put_progress(&mut self.block.toc, lsn);
        self.added(&Entry::Progress { lsn });
        self.block.progress_at = Some(at);
        self.end_lsn = lsn;
        Ok(())
    }

    fn put_rows(&mut self, rows: &[u8]) -> PartRef {
        let part = PartRef {
            block: self.position(),
            offset: length(self.block.raw.len()),
            len: length(rows.len()),
        };
        self.block.raw.extend_from_slice(rows);
        part
    }

    fn added(&mut self, entry: &Entry<'_>) {
        self.block.entries += 1;
        self.block.progress_at = None;
        let position = self.position();
        self.block.index.note(entry, position);
    }

    /// Where the open block will stand.
    fn position(&self) -> SpoolPos {
        SpoolPos::at(
            self.segment.header.number,
            self.settings.segment_bytes,
            self.cursor,
        )
    }

    /// Most bytes that entries and rows of one block can have.
    fn capacity(&self) -> usize {
        let fixed = HEADER + 3 * FRAME + self.versions.bytes();
        (self.settings.segment_bytes as usize).saturating_sub(fixed)
    }

    /// Bytes that the open block may take, its frame's head included.
    fn room(&self) -> usize {
        self.settings.segment_bytes as usize - self.cursor - FRAME
    }

    /// Sees to it that the open block can take `toc` and `raw` bytes more. Changes nothing readers could tell if it fails.
    #[inline]
    fn make_room(&mut self, toc: usize, raw: usize, reserve: usize) -> Result<(), SpoolError> {
        self.spool.check()?;
        let block = &self.block;
        let (all_toc, all_raw) = (block.toc.len() + toc, block.raw.len() + raw);
        let full = all_toc > self.settings.block_bytes || all_raw > self.settings.block_bytes;
        let fits = FRAME + all_toc + all_raw + reserve <= self.room();
        if fits && !full && block.entries > 0 {
            return Ok(());
        }
        self.make_room_slowly(toc + reserve, raw)
    }

    /// A tick goes to its transaction's block even if that is full already.
    fn make_room_for_tick(&mut self, toc: usize) -> Result<(), SpoolError> {
        self.spool.check()?;
        let block = &self.block;
        if block.entries > 0 && FRAME + block.toc.len() + block.raw.len() + toc <= self.room() {
            return Ok(());
        }
        self.make_room_slowly(toc, 0)
    }

    fn make_room_slowly(&mut self, toc: usize, raw: usize) -> Result<(), SpoolError> {
        let need = toc + raw;
        if need > self.capacity() {
            return Err(SpoolError::TooLarge {
                bytes: need as u64,
                max: self.capacity() as u64,
            });
        }
        self.close_block();
        let least = LEAST_ROOM.min(self.settings.block_bytes);
        if self.room() < (FRAME + need).max(least) {
            self.next_segment()?;
            let block = &self.block;
            if FRAME + block.toc.len() + need > self.room()
                || block.toc.len() + need > self.settings.block_bytes
            {
                self.close_block();
            }
        }
        Ok(())
    }

    /// Writes the open block into the segment, where readers see it at once.
    fn close_block(&mut self) {
        let block = &mut self.block;
        if block.entries == 0 {
            return;
        }
        // A buffer an eighth smaller is the test whether it pays: compression that does not fit fails.
        let limit = block.raw.len() - block.raw.len() / 8;
        let packed = match &mut self.compressor {
            Some(compressor) if block.raw.len() >= COMPRESS_FROM => {
                if self.packed.len() < limit {
                    self.packed.resize(limit, 0);
                }
                let packed = compressor.compress_to_buffer(&block.raw, &mut self.packed[..limit]);
                packed.ok().map(|len| &self.packed[..len])
            }
            _ => None,
        };
        let head = FrameHead {
            kind: FrameKind::Block,
            compressed: packed.is_some(),
            raw_len: block.raw.len(),
            entries: block.entries,
            position: SpoolPos::at(
                self.segment.header.number,
                self.settings.segment_bytes,
                self.cursor,
            ),
            durable: self.spool.durable(),
        };
        let payload = packed.unwrap_or(&block.raw);
        self.map.write(self.cursor, &head.encode(&block.toc, payload));
        self.map.write(self.cursor + FRAME, &block.toc);
        self.map.write(self.cursor + FRAME + block.toc.len(), payload);
        self.cursor = (self.cursor + FRAME + block.toc.len() + payload.len()).next_multiple_of(8);
        fail::fail_point!("spool::after_write");

        {
            let mut index = self.segment.index();
            index.ticks.append(&mut block.index.ticks);
            index.relation_blocks.append(&mut block.index.relation_blocks);
            index.transactions += std::mem::take(&mut block.index.transactions);
            index.end_lsn = self.end_lsn;
            index.last_tick = self.last_tick;
        }
        block.toc.clear();
        block.raw.clear();
        block.entries = 0;
        block.progress_at = None;
        if block.raw.capacity() > KEEP_CAPACITY {
            block.raw = Vec::new();
            self.packed = Vec::new();
        }
        self.map.publish(self.cursor);
        self.show_end();
    }

    /// Lets readers and the sync thread see everything up to the cursor.
    fn show_end(&self) {
        let end = self.position();
        self.spool.end.store(end.as_u64(), Ordering::Release);
        self.sync.published(end, self.end_lsn);
    }

    /// Goes on in a new segment; on an error nothing has changed. The open block must be closed.
    ///
    /// 1. Room for it, by quota and on the disk, then its file with header.
    /// 2. The seal on the old one.
    /// 3. Readers learn of it.
    /// 4. The sync thread makes old, new and directory durable before it reports anything beyond.
    /// 5. The new one declares the relations, so that it needs no older one.
    ///
    /// Killed after 1, recovery finds the old one unsealed and removes the new one, which is empty.
    fn next_segment(&mut self) -> Result<(), SpoolError> {
        if self.whole_segments_left() == 0 {
            return Err(SpoolError::Full {
                dir: self.spool.dir.clone(),
                max_bytes: self.settings.max_bytes,
            });
        }
        let old = &self.segment.header;
        let header = SegmentHeader {
            number: old.number + 1,
            start_lsn: self.end_lsn,
            last_tick: self.last_tick,
            created: segment::now(),
            next_relation: self.next_relation,
            ..old.clone()
        };
        let number = header.number;
        let (segment, map) = segment::create(&self.spool.dir, header)?;
        fail::fail_point!("spool::segment_created");

        let seal = FrameHead {
            kind: FrameKind::Seal,
            compressed: false,
            raw_len: 0,
            entries: 0,
            position: self.position(),
            durable: self.spool.durable(),
        };
        self.map.write(self.cursor, &seal.encode(&[], &[]));
        self.map.publish(self.cursor + FRAME);

        let mut segments = self
            .spool
            .segments
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        segments.insert(number, Arc::clone(&segment));
        drop(segments);
        self.map = map;
        self.cursor = HEADER;
        self.segment = segment;
        let end = self.position();
        self.spool.end.store(end.as_u64(), Ordering::Release);
        self.sync.switched(&self.segment, end, self.end_lsn);
        self.declare_current(number - 1);
        Ok(())
    }

    /// Declares what rows may refer to, given the segment before.
    fn declare_current(&mut self, before: u64) {
        for (id, message) in self.versions.current(before) {
            self.declare(id, &message);
        }
    }

    fn whole_segments_left(&self) -> u64 {
        let segments = self.spool.segments.read().unwrap_or_else(PoisonError::into_inner);
        let all = self.settings.max_bytes / self.settings.segment_bytes;
        all.saturating_sub(segments.len() as u64)
    }

    /// Closes the open block, so that readers see it, and wakes them.
    pub fn publish(&mut self) -> Result<(), SpoolError> {
        self.spool.check()?;
        self.close_block();
        let end = self.spool.end();
        if std::mem::replace(&mut self.announced, end) != end {
            self.spool.on_publish.call();
        }
        Ok(())
    }

    /// Asks for everything published to be made durable, and returns at once. Requests that come
    /// while a sync runs are answered together by the next one.
    pub fn request_sync(&mut self) {
        self.sync.request();
    }

    /// Everything that committed up to it is on disk: only this may be reported as flushed.
    pub fn durable_lsn(&self) -> Lsn {
        self.spool.durable_lsn()
    }

    /// Fails if the directory was removed or replaced: what is written, is written into files that nobody can open again.
    pub fn check_place(&self) -> Result<(), SpoolError> {
        self.lock.check_place()
    }

    /// Called, on the sync thread, after [`Writer::durable_lsn`] advanced or a sync failed.
    pub fn on_durable(&self, listener: Listener) {
        self.spool.on_durable(listener);
    }

    /// Room within the quota. The disk may have less.
    pub fn space(&self) -> Space {
        let room = self
            .room()
            .saturating_sub(FRAME + self.block.toc.len() + self.block.raw.len());
        match self.whole_segments_left() {
            0 if room < LEAST_ROOM.min(self.settings.block_bytes) => Space::Full,
            left => Space::Free(left * self.settings.segment_bytes + room as u64),
        }
    }
}
