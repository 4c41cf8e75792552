//! Reading: blocks in order, and single parts by reference.

use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::entry::{Entry, PartRef, TocReader};
use super::error::Fault;
use super::format::{Frame, FrameKind, HEADER, SpoolPos};
use super::segment::Segment;
use super::{Spool, SpoolError};

/// Follows a spool block by block.
pub struct Reader {
    spool: Arc<Spool>,
    at: SpoolPos,
    segment: Option<Arc<Segment>>,
}

impl Reader {
    pub(super) fn new(spool: Arc<Spool>, from: SpoolPos) -> Reader {
        Reader {
            spool,
            at: from,
            segment: None,
        }
    }

    /// Where the next block begins, or will.
    pub fn position(&self) -> SpoolPos {
        self.at
    }

    /// The next block, its checksum checked; `None` at the published end.
    pub fn next_block(&mut self) -> Result<Option<Block>, SpoolError> {
        let segment_bytes = self.spool.segment_bytes;
        loop {
            if self.at >= self.spool.end() {
                return Ok(None);
            }
            let number = self.at.segment(segment_bytes);
            let segment = match self.segment.take() {
                Some(segment) if segment.header.number == number => segment,
                _ => self.spool.segment_or_released(self.at)?,
            };
            let offset = self.at.offset(segment_bytes).max(HEADER);
            let position = SpoolPos::at(number, segment_bytes, offset);
            let frame = parse(&segment, position)?;
            match frame.kind {
                FrameKind::Seal => self.at = SpoolPos::at(number + 1, segment_bytes, HEADER),
                FrameKind::Block => {
                    self.at = SpoolPos::at(number, segment_bytes, frame.next);
                    self.segment = Some(Arc::clone(&segment));
                    let block = Block::new(&self.spool, segment, frame, position);
                    return Ok(Some(block));
                }
            }
        }
    }
}

fn parse(segment: &Segment, position: SpoolPos) -> Result<Frame, SpoolError> {
    let offset = position.offset(segment.header.segment_bytes);
    let frame = Frame::parse(segment.map.published(), offset, position);
    frame.map_err(|fault| fault.in_file(&segment.path))
}

/// One block, pinned in memory as long as this lives.
pub struct Block {
    segment: Arc<Segment>,
    frame: Frame,
    position: SpoolPos,
    spool: Arc<Spool>,
    raw: OnceLock<Vec<u8>>,
}

impl Block {
    fn new(spool: &Arc<Spool>, segment: Arc<Segment>, frame: Frame, position: SpoolPos) -> Block {
        Block {
            segment,
            frame,
            position,
            spool: Arc::clone(spool),
            raw: OnceLock::new(),
        }
    }

    pub fn position(&self) -> SpoolPos {
        self.position
    }

    /// Where the next block may begin.
    pub fn end(&self) -> SpoolPos {
        let header = &self.segment.header;
        SpoolPos::at(header.number, header.segment_bytes, self.frame.next)
    }

    /// Bytes of row records in it.
    pub fn raw_len(&self) -> usize {
        self.frame.raw_len
    }

    /// Bytes it takes on disk.
    pub fn stored_len(&self) -> usize {
        self.frame.next - self.position.offset(self.segment.header.segment_bytes)
    }

    pub fn is_compressed(&self) -> bool {
        self.frame.compressed
    }

    pub(super) fn file(&self) -> &Path {
        &self.segment.path
    }

    /// The table of contents. It is not compressed: looking at it never touches rows.
    pub fn entries(&self) -> Entries<'_> {
        let toc = self.segment.map.published().get(self.frame.toc.clone());
        let toc = toc.unwrap_or_default();
        Entries {
            block: self,
            toc: TocReader::new(toc, self.position, self.frame.raw_len, self.frame.entries),
        }
    }

    /// Row records of a part of this block. The payload is decompressed at the first call.
    pub fn rows(&self, part: &PartRef) -> Result<&[u8], SpoolError> {
        let (start, len) = (part.offset as usize, part.len as usize);
        let rows = match part.block == self.position {
            true => self.payload()?.get(start..start + len),
            false => None,
        };
        rows.ok_or_else(|| {
            let found = format!("a reference to bytes {start}+{len} of {}", part.block);
            Fault::new(self.frame.payload.start, "a reference into this block", found).in_file(self.file())
        })
    }

    fn payload(&self) -> Result<&[u8], SpoolError> {
        if let Some(raw) = self.raw.get() {
            return Ok(raw);
        }
        let stored = self.segment.map.published().get(self.frame.payload.clone());
        let stored = stored.unwrap_or_default();
        if !self.frame.compressed {
            return Ok(stored);
        }
        let raw = self
            .spool
            .scratch
            .decompress(stored, self.frame.raw_len)
            .map_err(|found| {
                Fault::new(
                    self.frame.payload.start,
                    "a zstd block of the stated length",
                    found,
                )
                .in_file(self.file())
            })?;
        Ok(self.raw.get_or_init(|| raw))
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        if let Some(raw) = self.raw.take() {
            self.spool.scratch.give_back(raw);
        }
    }
}

/// Entries of a block.
pub struct Entries<'a> {
    block: &'a Block,
    toc: TocReader<'a>,
}

impl<'a> Iterator for Entries<'a> {
    type Item = Result<Entry<'a>, SpoolError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let entry = self.toc.next_entry().map_err(|mut fault| {
            fault.offset += self.block.frame.toc.start;
            fault.in_file(self.block.file())
        });
        entry.transpose()
    }
}

/// Reads parts by reference, keeping the block it read last.
pub struct PartReader {
    spool: Arc<Spool>,
    block: Option<Block>,
}

impl PartReader {
    pub fn new(spool: &Arc<Spool>) -> PartReader {
        PartReader {
            spool: Arc::clone(spool),
            block: None,
        }
    }

    /// Row records of a part.
    pub fn rows(&mut self, part: &PartRef) -> Result<&[u8], SpoolError> {
        let block = match self.block.take() {
            Some(block) if block.position == part.block => block,
            other => {
                drop(other);
                self.spool.block_at(part.block)?
            }
        };
        self.block.insert(block).rows(part)
    }
}

impl Spool {
    pub(super) fn block_at(self: &Arc<Self>, position: SpoolPos) -> Result<Block, SpoolError> {
        let segment = self.segment_or_released(position)?;
        let frame = parse(&segment, position)?;
        Ok(Block::new(self, segment, frame, position))
    }
}

/// Buffers and decompression contexts, used again and again.
#[derive(Default)]
pub(super) struct Scratch {
    buffers: Mutex<Vec<Vec<u8>>>,
    contexts: Mutex<Vec<zstd::bulk::Decompressor<'static>>>,
}

const KEEP_BUFFERS: usize = 4;
const KEEP_BUFFER_BYTES: usize = 1 << 20;

impl Scratch {
    fn decompress(&self, stored: &[u8], raw_len: usize) -> Result<Vec<u8>, String> {
        let buffer = self.buffers.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut raw = buffer.unwrap_or_default();
        raw.clear();
        raw.reserve_exact(raw_len);
        let context = self.contexts.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut context = match context {
            Some(context) => context,
            None => zstd::bulk::Decompressor::new().map_err(|e| e.to_string())?,
        };
        let len = context
            .decompress_to_buffer(stored, &mut raw)
            .map_err(|e| e.to_string())?;
        self.contexts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(context);
        if len == raw_len {
            Ok(raw)
        } else {
            Err(format!("{len} bytes"))
        }
    }

    fn give_back(&self, raw: Vec<u8>) {
        let mut buffers = self.buffers.lock().unwrap_or_else(PoisonError::into_inner);
        if buffers.len() < KEEP_BUFFERS && raw.capacity() <= KEEP_BUFFER_BYTES {
            buffers.push(raw);
        }
    }
}
