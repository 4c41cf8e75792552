//! Bytes of the segment header and of frames. `docs/format/spool.md` draws them; keep the two alike.

use std::fmt;
use std::ops::Range;

use skytide_sql::{Lsn, QueueName, SlotName, TickId};

use super::error::Fault;

pub(super) const MAGIC: [u8; 8] = *b"SKYSPOOL";
pub(super) const VERSION: u32 = 1;
/// The segment header's size, and so the offset of a segment's first frame.
pub(super) const HEADER: usize = 4096;
/// A frame's fixed part; all of the frame that closes a segment.
pub(super) const FRAME: usize = 40;
pub(super) const MIN_SEGMENT: u64 = 1 << 20;
pub(super) const MAX_SEGMENT: u64 = 1 << 30;

/// A byte position in a spool: `segment number × segment size + offset`. Grows for ever, names one block.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct SpoolPos(u64);

impl SpoolPos {
    pub const fn new(position: u64) -> SpoolPos {
        SpoolPos(position)
    }

    pub const fn as_u64(self) -> u64 {
        self.0
    }

    pub(super) fn at(number: u64, segment_bytes: u64, offset: usize) -> SpoolPos {
        SpoolPos(number * segment_bytes + offset as u64)
    }

    pub(super) fn segment(self, segment_bytes: u64) -> u64 {
        self.0 / segment_bytes
    }

    pub(super) fn offset(self, segment_bytes: u64) -> usize {
        (self.0 % segment_bytes) as usize
    }
}

impl fmt::Display for SpoolPos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl fmt::Debug for SpoolPos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Whose changes a spool holds. All of it must match when the spool is opened again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub system_id: u64,
    pub timeline: u32,
    pub database: String,
    pub slot: SlotName,
    pub queue: QueueName,
}

/// Reads little-endian fields; `None` once the bytes run out.
#[derive(Clone)]
pub(super) struct Fields<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Fields<'a> {
    pub fn new(bytes: &'a [u8]) -> Fields<'a> {
        Fields { bytes, at: 0 }
    }

    pub fn at(&self) -> usize {
        self.at
    }

    pub fn is_empty(&self) -> bool {
        self.at == self.bytes.len()
    }

    #[inline]
    pub fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(len)?;
        let taken = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(taken)
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let taken = *self.bytes.get(self.at..)?.first_chunk::<N>()?;
        self.at += N;
        Some(taken)
    }

    #[inline]
    pub fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }

    #[inline]
    pub fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    #[inline]
    pub fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    #[inline]
    pub fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    #[inline]
    pub fn i64(&mut self) -> Option<i64> {
        self.array().map(i64::from_le_bytes)
    }

    fn text(&mut self) -> Option<String> {
        let len = self.u16()?;
        String::from_utf8(self.take(usize::from(len))?.to_vec()).ok()
    }
}

/// A length inside a segment. Segments are at most 1 GiB.
pub(super) fn length(len: usize) -> u32 {
    u32::try_from(len).expect("nothing in a spool is longer than a segment")
}

/// The first 4096 bytes of a segment file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub number: u64,
    pub segment_bytes: u64,
    pub identity: Identity,
    /// Everything that committed up to here is in earlier segments.
    pub start_lsn: Lsn,
    /// The last tick before this segment.
    pub last_tick: Option<TickId>,
    /// When the file was made; tells it from a namesake.
    pub created: i64,
    pub next_relation: u32,
}

/// Why a header was not taken.
#[derive(Debug)]
pub(super) enum BadHeader {
    Fault(Fault),
    Version(u32),
}

impl SegmentHeader {
    pub fn encode(&self) -> Vec<u8> {
        let mut b = Vec::with_capacity(HEADER);
        b.extend_from_slice(&MAGIC);
        b.extend_from_slice(&VERSION.to_le_bytes());
        b.extend_from_slice(&[0; 4]);
        b.extend_from_slice(&self.number.to_le_bytes());
        b.extend_from_slice(&self.segment_bytes.to_le_bytes());
        b.extend_from_slice(&self.identity.system_id.to_le_bytes());
        b.extend_from_slice(&self.identity.timeline.to_le_bytes());
        b.extend_from_slice(&u32::from(self.last_tick.is_some()).to_le_bytes());
        b.extend_from_slice(&self.start_lsn.as_u64().to_le_bytes());
        b.extend_from_slice(&self.last_tick.map_or(0, TickId::get).to_le_bytes());
        b.extend_from_slice(&self.created.to_le_bytes());
        b.extend_from_slice(&self.next_relation.to_le_bytes());
        let Identity {
            database,
            slot,
            queue,
            ..
        } = &self.identity;
        for name in [database.as_str(), slot.as_str(), queue.as_str()] {
            let len = u16::try_from(name.len()).expect("names were checked when the spool was opened");
            b.extend_from_slice(&len.to_le_bytes());
            b.extend_from_slice(name.as_bytes());
        }
        b.resize(HEADER, 0);
        let crc = crc32fast::hash(&b[16..]);
        b[12..16].copy_from_slice(&crc.to_le_bytes());
        b
    }

    pub fn decode(bytes: &[u8]) -> Result<SegmentHeader, BadHeader> {
        let fault = |at, expected, found: String| BadHeader::Fault(Fault::new(at, expected, found));
        let short = || fault(0, "a segment header", format!("{} bytes", bytes.len()));
        let bytes = bytes.get(..HEADER).ok_or_else(short)?;
        let mut f = Fields::new(bytes);
        if f.take(8) != Some(&MAGIC) {
            return Err(fault(0, "the magic SKYSPOOL", "other bytes".into()));
        }
        let version = f.u32().ok_or_else(short)?;
        if version != VERSION {
            return Err(BadHeader::Version(version));
        }
        let crc = f.u32().ok_or_else(short)?;
        let sum = crc32fast::hash(bytes.get(16..).ok_or_else(short)?);
        if crc != sum {
            return Err(fault(
                12,
                "a matching header checksum",
                format!("{crc:#010x}, not {sum:#010x}"),
            ));
        }
        let header = SegmentHeader::fields(&mut f);
        header.ok_or_else(|| fault(f.at(), "a header field", "something else".into()))
    }

    fn fields(f: &mut Fields<'_>) -> Option<SegmentHeader> {
        let number = f.u64()?;
        let segment_bytes = f.u64()?;
        let system_id = f.u64()?;
        let timeline = f.u32()?;
        let has_tick = f.u32()? != 0;
        let start_lsn = Lsn::new(f.u64()?);
        let tick = TickId::new(f.i64()?);
        let created = f.i64()?;
        let next_relation = f.u32()?;
        let identity = Identity {
            system_id,
            timeline,
            database: f.text()?,
            slot: SlotName::new(f.text()?).ok()?,
            queue: QueueName::new(f.text()?).ok()?,
        };
        let sane = valid_segment_bytes(segment_bytes) && number < u64::MAX / MAX_SEGMENT;
        sane.then_some(SegmentHeader {
            number,
            segment_bytes,
            identity,
            start_lsn,
            last_tick: has_tick.then_some(tick),
            created,
            next_relation,
        })
    }
}

pub(super) fn valid_segment_bytes(bytes: u64) -> bool {
    (MIN_SEGMENT..=MAX_SEGMENT).contains(&bytes) && bytes.is_multiple_of(HEADER as u64)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FrameKind {
    Block,
    /// Closes a segment: the stream goes on in the next one.
    Seal,
}

/// A frame's fixed part, checked; ranges are within the segment.
#[derive(Clone, Debug)]
pub(super) struct Frame {
    pub kind: FrameKind,
    pub compressed: bool,
    pub toc: Range<usize>,
    pub payload: Range<usize>,
    pub raw_len: usize,
    pub entries: u32,
    /// Everything before this was on disk when the frame was written.
    pub durable: SpoolPos,
    /// Where the next frame begins.
    pub next: usize,
}

const KIND_BLOCK: u8 = 1;
const KIND_SEAL: u8 = 2;
const FLAG_ZSTD: u8 = 1;

/// What a frame's fixed part says besides its lengths.
pub(super) struct FrameHead {
    pub kind: FrameKind,
    pub compressed: bool,
    pub raw_len: usize,
    pub entries: u32,
    pub position: SpoolPos,
    pub durable: SpoolPos,
}

impl FrameHead {
    /// The fixed part with the checksum over all of the frame.
    pub fn encode(&self, toc: &[u8], payload: &[u8]) -> [u8; FRAME] {
        let len = length(FRAME + toc.len() + payload.len());
        let kind = match self.kind {
            FrameKind::Block => KIND_BLOCK,
            FrameKind::Seal => KIND_SEAL,
        };
        let mut b = [0; FRAME];
        b[4..8].copy_from_slice(&len.to_le_bytes());
        b[8] = kind;
        b[9] = if self.compressed { FLAG_ZSTD } else { 0 };
        b[12..16].copy_from_slice(&length(toc.len()).to_le_bytes());
        b[16..20].copy_from_slice(&length(self.raw_len).to_le_bytes());
        b[20..24].copy_from_slice(&self.entries.to_le_bytes());
        b[24..32].copy_from_slice(&self.position.as_u64().to_le_bytes());
        b[32..40].copy_from_slice(&self.durable.as_u64().to_le_bytes());
        let mut crc = crc32fast::Hasher::new();
        crc.update(&b[4..]);
        crc.update(toc);
        crc.update(payload);
        b[0..4].copy_from_slice(&crc.finalize().to_le_bytes());
        b
    }
}

impl Frame {
    /// How long the frame says it is whose fixed part begins here.
    pub fn length_of(fixed: &[u8]) -> Option<usize> {
        let mut f = Fields::new(fixed.get(4..)?);
        f.u32().map(|len| len as usize)
    }

    /// Checks the frame at `offset` of a segment's `bytes`, checksum included.
    pub fn parse(bytes: &[u8], offset: usize, position: SpoolPos) -> Result<Frame, Fault> {
        let cut = || Fault::new(offset, "a whole frame", "the end of the segment");
        let rest = bytes.get(offset..).ok_or_else(cut)?;
        let mut f = Fields::new(rest);
        let mut head = || {
            let (crc, len) = (f.u32()?, f.u32()?);
            let (kind, flags, spare) = (f.u8()?, f.u8()?, f.u16()?);
            let (toc, raw, entries) = (f.u32()?, f.u32()?, f.u32()?);
            Some((
                crc,
                len,
                kind,
                flags,
                spare,
                toc,
                raw,
                entries,
                f.u64()?,
                f.u64()?,
            ))
        };
        let (crc, len, kind, flags, spare, toc, raw, entries, own, durable) = head().ok_or_else(cut)?;
        if len == 0 {
            return Err(Fault::new(offset, "a frame", "nothing"));
        }
        if own != position.as_u64() {
            let found = format!("a frame of position {own:#x}");
            return Err(Fault::new(offset + 24, "a frame of this position", found));
        }
        let (len, toc) = (len as usize, toc as usize);
        let payload = len.checked_sub(FRAME).and_then(|l| l.checked_sub(toc));
        let (Some(frame), Some(payload)) = (rest.get(4..len), payload) else {
            let found = format!("length {len}, contents {toc}");
            return Err(Fault::new(offset + 4, "lengths within the segment", found));
        };
        let sum = crc32fast::hash(frame);
        if crc != sum {
            let found = format!("{crc:#010x}, not {sum:#010x}");
            return Err(Fault::new(offset, "a matching checksum", found));
        }
        let kind = match kind {
            KIND_BLOCK => FrameKind::Block,
            KIND_SEAL => FrameKind::Seal,
            other => return Err(Fault::new(offset + 8, "frame kind 1 or 2", other)),
        };
        let compressed = flags == FLAG_ZSTD;
        let raw_len = raw as usize;
        let lengths_agree = if compressed {
            raw_len as u64 <= MAX_SEGMENT
        } else {
            raw_len == payload
        };
        if flags & !FLAG_ZSTD != 0 || spare != 0 || !lengths_agree {
            let found = format!("flags {flags}, raw length {raw}, payload {payload}");
            return Err(Fault::new(offset + 9, "known flags and matching lengths", found));
        }
        let toc_start = offset + FRAME;
        Ok(Frame {
            kind,
            compressed,
            toc: toc_start..toc_start + toc,
            payload: toc_start + toc..offset + len,
            raw_len,
            entries,
            durable: SpoolPos(durable),
            next: (offset + len).next_multiple_of(8),
        })
    }
}
