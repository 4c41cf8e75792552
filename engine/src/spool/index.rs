//! What a segment holds, in short; and the sidecar file that keeps it for a sealed segment.
//!
//! The sidecar is written after the segment was synced, so besides saving a scan it proves that the
//! segment is whole on disk. A missing or bad one is made again from the segment.

use std::fs;
use std::io::Write;
use std::path::Path;

use skytide_sql::{Lsn, TickId};

use super::entry::{Entry, TocReader};
use super::error::Fault;
use super::format::{Fields, Frame, FrameKind, HEADER, SegmentHeader, SpoolPos, length};
use super::{SpoolError, segment};
use crate::change::RelationId;

const MAGIC: [u8; 8] = *b"SKYSPIDX";
const VERSION: u32 = 1;

/// Contents of one segment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct SegmentIndex {
    pub ticks: Vec<(TickId, SpoolPos)>,
    /// Blocks that declare relations.
    pub relation_blocks: Vec<SpoolPos>,
    pub transactions: u64,
    /// As of the segment's end.
    pub end_lsn: Lsn,
    pub last_tick: Option<TickId>,
}

impl SegmentIndex {
    pub fn starting(header: &SegmentHeader) -> SegmentIndex {
        SegmentIndex {
            end_lsn: header.start_lsn,
            last_tick: header.last_tick,
            ..SegmentIndex::default()
        }
    }

    /// Takes in one entry of the block at `block`.
    pub fn note(&mut self, entry: &Entry<'_>, block: SpoolPos) {
        match entry {
            Entry::Relation { .. } => {
                if self.relation_blocks.last() != Some(&block) {
                    self.relation_blocks.push(block);
                }
            }
            Entry::Transaction { head, .. } | Entry::Commit { head, .. } => {
                self.transactions += 1;
                self.end_lsn = self.end_lsn.max(head.end_lsn);
            }
            Entry::Progress { lsn } => self.end_lsn = self.end_lsn.max(*lsn),
            Entry::Tick(tick) => {
                self.ticks.push((tick.tick_id, block));
                self.last_tick = Some(tick.tick_id);
            }
            Entry::Part { .. } | Entry::Abort { .. } | Entry::Session { .. } => {}
        }
    }

    fn encode(&self, header: &SegmentHeader) -> Vec<u8> {
        let mut b = Vec::with_capacity(72 + 16 * self.ticks.len() + 8 * self.relation_blocks.len());
        b.extend_from_slice(&MAGIC);
        b.extend_from_slice(&VERSION.to_le_bytes());
        b.extend_from_slice(&[0; 4]);
        b.extend_from_slice(&header.number.to_le_bytes());
        b.extend_from_slice(&header.created.to_le_bytes());
        b.extend_from_slice(&self.end_lsn.as_u64().to_le_bytes());
        b.extend_from_slice(&self.last_tick.map_or(0, TickId::get).to_le_bytes());
        b.extend_from_slice(&self.transactions.to_le_bytes());
        b.extend_from_slice(&u32::from(self.last_tick.is_some()).to_le_bytes());
        b.extend_from_slice(&length(self.ticks.len()).to_le_bytes());
        b.extend_from_slice(&length(self.relation_blocks.len()).to_le_bytes());
        b.extend_from_slice(&[0; 4]);
        for (tick, block) in &self.ticks {
            b.extend_from_slice(&tick.get().to_le_bytes());
            b.extend_from_slice(&block.as_u64().to_le_bytes());
        }
        for block in &self.relation_blocks {
            b.extend_from_slice(&block.as_u64().to_le_bytes());
        }
        let crc = crc32fast::hash(&b[16..]);
        b[12..16].copy_from_slice(&crc.to_le_bytes());
        b
    }

    fn decode(bytes: &[u8], header: &SegmentHeader) -> Option<SegmentIndex> {
        let mut f = Fields::new(bytes);
        let known = f.take(8)? == MAGIC && f.u32()? == VERSION;
        let crc = f.u32()?;
        let whole = crc == crc32fast::hash(bytes.get(16..)?);
        let mine = f.u64()? == header.number && f.i64()? == header.created;
        if !(known && whole && mine) {
            return None;
        }
        let end_lsn = Lsn::new(f.u64()?);
        let last_tick = TickId::new(f.i64()?);
        let transactions = f.u64()?;
        let has_tick = f.u32()? != 0;
        let (ticks, blocks, _spare) = (f.u32()?, f.u32()?, f.u32()?);
        let mut list = Fields::new(f.take((ticks as usize).checked_mul(16)?)?);
        let ticks =
            std::iter::from_fn(|| Some((TickId::new(list.i64()?), SpoolPos::new(list.u64()?)))).collect();
        let mut list = Fields::new(f.take((blocks as usize).checked_mul(8)?)?);
        let relation_blocks = std::iter::from_fn(|| list.u64().map(SpoolPos::new)).collect();
        f.is_empty().then_some(SegmentIndex {
            ticks,
            relation_blocks,
            transactions,
            end_lsn,
            last_tick: has_tick.then_some(last_tick),
        })
    }

    /// The sidecar's contents, if there is a good one for this very segment.
    pub fn load(dir: &Path, header: &SegmentHeader) -> Option<SegmentIndex> {
        let bytes = fs::read(segment::index_path(dir, header.number)).ok()?;
        SegmentIndex::decode(&bytes, header)
    }

    /// Writes the sidecar of a segment that is sealed and synced.
    pub fn store(&self, dir: &Path, header: &SegmentHeader) -> Result<(), SpoolError> {
        // 1. aside, 2. synced, 3. renamed: a sidecar is whole or absent.
        let path = segment::index_path(dir, header.number);
        let aside = path.with_extension("idx.tmp");
        match self.write(&aside, header) {
            // It spares the next start a scan, and nothing else.
            Err(error) if error.is_full_disk() => {
                let _ = fs::remove_file(&aside);
                tracing::warn!(file = %path.display(), "no disk space for the index of a spool segment: it is left out");
                Ok(())
            }
            written => {
                written.and_then(|()| fs::rename(&aside, &path).map_err(SpoolError::io("rename", &aside)))
            }
        }
    }

    fn write(&self, aside: &Path, header: &SegmentHeader) -> Result<(), SpoolError> {
        let mut file = segment::create_file(aside, true)?;
        fail::fail_point!("spool::index", |_| Err(SpoolError::io("write", aside)(
            std::io::ErrorKind::StorageFull.into()
        )));
        file.write_all(&self.encode(header))
            .and_then(|()| file.sync_all())
            .map_err(SpoolError::io("write", aside))
    }
}

/// How a segment's run of good frames ends.
#[derive(Debug)]
pub(super) enum End {
    /// At the frame that closes the segment.
    Sealed,
    /// At `offset`, for this reason. Whether that is a torn tail or rot is for the caller to judge.
    Open { offset: usize, fault: Fault },
}

/// Reads all frames of a segment from its start. `relation` is told each declaration, `passed` up to where the
/// bytes are not needed any more.
pub(super) fn scan(
    bytes: &[u8],
    header: &SegmentHeader,
    mut relation: impl FnMut(RelationId, &[u8]) -> Result<(), SpoolError>,
    mut passed: impl FnMut(usize),
    file: &Path,
) -> Result<(SegmentIndex, End), SpoolError> {
    let mut index = SegmentIndex::starting(header);
    let mut offset = HEADER;
    loop {
        let position = SpoolPos::at(header.number, header.segment_bytes, offset);
        let frame = match Frame::parse(bytes, offset, position) {
            Ok(frame) if frame.kind == FrameKind::Seal => return Ok((index, End::Sealed)),
            Ok(frame) => frame,
            Err(fault) => return Ok((index, End::Open { offset, fault })),
        };
        let toc = bytes.get(frame.toc.clone()).unwrap_or_default();
        let mut entries = TocReader::new(toc, position, frame.raw_len, frame.entries);
        loop {
            // Below a good checksum nothing is torn: what does not parse was written wrong.
            let entry = entries.next_entry().map_err(|mut fault| {
                fault.offset += frame.toc.start;
                fault.in_file(file)
            })?;
            let Some(entry) = entry else { break };
            index.note(&entry, position);
            if let Entry::Relation { id, message } = entry {
                relation(id, message)?;
            }
        }
        offset = frame.next;
        passed(offset);
    }
}
