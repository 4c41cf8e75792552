//! The index at the end of a packed file: what is in the file, and where each frame begins.

use std::ops::Range;

use skytide_sql::Lsn;

use super::{FRAME_BYTES, PackError};
use crate::TimelineId;
use crate::store::MAX_OBJECT_BYTES;
use crate::walsender::Timestamp;

/// A skippable frame of zstd (format specification, section "Skippable Frames").
const SKIPPABLE: u32 = 0x184D_2A5B;
const MAGIC: [u8; 4] = *b"SkWi";
const END_MAGIC: [u8; 4] = *b"SkWe";
const VERSION: u16 = 1;
/// Where no time is known: what PostgreSQL writes for "before all times".
const NO_TIME: i64 = i64::MIN;

/// Magic and length of the skippable frame.
const FRAME_HEADER: usize = 8;
/// From the index's magic up to the lengths of the frames.
const FIXED: usize = 120;
/// After the lengths: checksum, length of the index, end magic.
const FOOTER: usize = 12;
/// The index of the largest file fits into this many bytes.
pub const MAX_TAIL: usize = FRAME_HEADER + FIXED + 4 * (MAX_OBJECT_BYTES as usize / FRAME_BYTES) + FOOTER;

/// What kind of file it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Segment,
    /// A segment that was not filled when its timeline ended; PostgreSQL archives it as `.partial`.
    PartialSegment,
    History,
    BackupHistory,
}

impl Kind {
    fn code(self) -> u8 {
        match self {
            Kind::Segment => 1,
            Kind::PartialSegment => 2,
            Kind::History => 3,
            Kind::BackupHistory => 4,
        }
    }

    fn from_code(code: u8) -> Option<Kind> {
        let kinds = [
            Kind::Segment,
            Kind::PartialSegment,
            Kind::History,
            Kind::BackupHistory,
        ];
        kinds.into_iter().find(|kind| kind.code() == code)
    }
}

/// What is in a packed file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contents {
    pub kind: Kind,
    pub system_id: u64,
    /// Of the file's name.
    pub timeline: TimelineId,
    pub segment_bytes: u32,
    /// How many bytes from the file's start carry data. In a segment what follows is padding, and two files
    /// that differ only there are the same.
    pub data_bytes: u64,
    /// CRC-32C of those bytes.
    pub data_crc: u32,
    /// The WAL in it; none in a text file.
    pub span: Option<Span>,
}

/// The WAL in a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// The segment's first byte.
    pub start_lsn: Lsn,
    /// Behind the last record that ends in it. A longer one may begin there, and go on in the next segment.
    pub end_lsn: Lsn,
    /// Where the first record starts. There may be none: a record can be longer than a segment.
    pub first_record: Option<Lsn>,
    /// Where the record before that one starts, as it says itself.
    pub first_prev: Lsn,
    /// Where the last record that ends in the segment starts.
    pub last_record: Option<Lsn>,
    pub records: u64,
    /// When transactions ended, by the server's clock: the first and the last commit by position.
    pub first_commit: Option<Timestamp>,
    pub last_commit: Option<Timestamp>,
}

impl Contents {
    /// Compares the file with the checksum of its data.
    pub(super) fn check(&self, file: &[u8]) -> Result<(), PackError> {
        let data = usize::try_from(self.data_bytes)
            .ok()
            .and_then(|end| file.get(..end));
        let found = crc32c::crc32c(data.ok_or(PackError::Index("the data is longer than the file"))?);
        match found == self.data_crc {
            true => Ok(()),
            false => Err(PackError::Checksum {
                expected: self.data_crc,
                found,
            }),
        }
    }
}

/// An index that was read and checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    contents: Contents,
    file_bytes: u64,
    /// Where each frame ends in the object.
    ends: Vec<u64>,
    packed_bytes: u64,
}

/// Whether an index is at the end, sound or not: by its beginning or by its end.
pub(super) fn is_there(packed: &[u8]) -> bool {
    let tail = packed.get(packed.len().saturating_sub(MAX_TAIL)..);
    let tail = tail.unwrap_or_default();
    let begins = |at: &[u8]| at.starts_with(&SKIPPABLE.to_le_bytes()) && at.ends_with(&MAGIC);
    tail.ends_with(&END_MAGIC) || tail.windows(FRAME_HEADER + MAGIC.len()).any(begins)
}

/// Appends the index to the frames.
pub(super) fn write(out: &mut Vec<u8>, contents: &Contents, file_bytes: u64, lengths: &[u32]) {
    let body = FIXED + 4 * lengths.len() + FOOTER;
    let body_bytes = u32::try_from(body).expect("an index is small");
    out.reserve(FRAME_HEADER + body);
    out.extend(SKIPPABLE.to_le_bytes());
    out.extend(body_bytes.to_le_bytes());
    let start = out.len();
    out.extend(MAGIC);
    out.extend(VERSION.to_le_bytes());
    out.push(contents.kind.code());
    out.push(u8::from(contents.span.is_some()));
    out.extend(contents.system_id.to_le_bytes());
    out.extend(contents.timeline.as_u32().to_le_bytes());
    out.extend(contents.segment_bytes.to_le_bytes());
    out.extend(contents.data_bytes.to_le_bytes());
    let span = contents.span.as_ref();
    let lsn = |read: fn(&Span) -> Option<Lsn>| span.and_then(read).unwrap_or(Lsn::INVALID).as_u64();
    for field in [
        lsn(|span| Some(span.start_lsn)),
        lsn(|span| Some(span.end_lsn)),
        lsn(|span| span.first_record),
        lsn(|span| Some(span.first_prev)),
        lsn(|span| span.last_record),
        span.map_or(0, |span| span.records),
        file_bytes,
    ] {
        out.extend(field.to_le_bytes());
    }
    for time in [
        span.and_then(|span| span.first_commit),
        span.and_then(|span| span.last_commit),
    ] {
        out.extend(time.map_or(NO_TIME, Timestamp::as_micros).to_le_bytes());
    }
    out.extend(contents.data_crc.to_le_bytes());
    out.extend((FRAME_BYTES as u32).to_le_bytes());
    out.extend(
        u32::try_from(lengths.len())
            .expect("frames are counted")
            .to_le_bytes(),
    );
    out.extend(0u32.to_le_bytes());
    debug_assert_eq!(out.len() - start, FIXED);
    for length in lengths {
        out.extend(length.to_le_bytes());
    }
    let crc = crc32c::crc32c(out.get(start..).expect("it was just written"));
    out.extend(crc.to_le_bytes());
    out.extend(body_bytes.to_le_bytes());
    out.extend(END_MAGIC);
}

/// Takes fields off the front of untrusted bytes.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], PackError> {
        let (field, rest) = self
            .0
            .split_first_chunk::<N>()
            .ok_or(PackError::Index("it is too short"))?;
        self.0 = rest;
        Ok(*field)
    }

    fn u16(&mut self) -> Result<u16, PackError> {
        self.take().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, PackError> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, PackError> {
        self.take().map(u64::from_le_bytes)
    }

    fn time(&mut self) -> Result<Option<Timestamp>, PackError> {
        let micros = self.take().map(i64::from_le_bytes)?;
        Ok((micros != NO_TIME).then_some(Timestamp::from_micros(micros)))
    }

    fn lsn(&mut self) -> Result<Lsn, PackError> {
        self.u64().map(Lsn::new)
    }
}

impl Index {
    /// Reads the index from the end of `tail`, the last bytes of an object or all of it.
    pub fn parse(tail: &[u8]) -> Result<Index, PackError> {
        let no_index = PackError::Index("there is none at the end of the object");
        let Some((rest, end)) = tail.split_last_chunk::<8>() else {
            return Err(no_index);
        };
        let (length, magic) = end
            .split_first_chunk::<4>()
            .ok_or(PackError::Index("it is too short"))?;
        if magic != END_MAGIC {
            return Err(no_index);
        }
        let body_bytes = u32::from_le_bytes(*length);
        let body = usize::try_from(body_bytes).map_err(|_| PackError::Index("it is too long"))?;
        if !(FIXED + FOOTER..=MAX_TAIL).contains(&body) {
            return Err(PackError::Index("its length is out of bounds"));
        }
        let (checked, crc) = rest
            .len()
            .checked_sub(body - 8)
            .and_then(|start| rest.get(start..))
            .and_then(<[u8]>::split_last_chunk::<4>)
            .ok_or(PackError::Index("it is cut off"))?;
        if crc32c::crc32c(checked) != u32::from_le_bytes(*crc) {
            return Err(PackError::Index("its checksum is wrong"));
        }
        // Only now: it is the writer's bytes that are read from here on.
        let before = rest.len().saturating_sub(body - 8);
        let header = rest.get(..before).and_then(<[u8]>::last_chunk::<FRAME_HEADER>);
        let expected = [SKIPPABLE.to_le_bytes(), body_bytes.to_le_bytes()].concat();
        if header.is_none_or(|header| header[..] != expected) {
            return Err(PackError::Index("its frame is damaged"));
        }
        Index::fields(checked, body_bytes)
    }

    fn fields(checked: &[u8], body_bytes: u32) -> Result<Index, PackError> {
        let mut fields = Fields(checked);
        if fields.take()? != MAGIC {
            return Err(PackError::Index("its magic is wrong"));
        }
        let version = fields.u16()?;
        if version != VERSION {
            return Err(PackError::Version {
                found: version,
                known: VERSION,
            });
        }
        let [kind, has_span] = fields.take()?;
        let kind = Kind::from_code(kind).ok_or(PackError::Index("its kind is unknown"))?;
        let system_id = fields.u64()?;
        let timeline = TimelineId::new(fields.u32()?).ok_or(PackError::Index("its timeline is 0"))?;
        let segment_bytes = fields.u32()?;
        let data_bytes = fields.u64()?;
        let mut span = Span {
            start_lsn: fields.lsn()?,
            end_lsn: fields.lsn()?,
            first_record: Some(fields.lsn()?).filter(|lsn| lsn.is_valid()),
            first_prev: fields.lsn()?,
            last_record: Some(fields.lsn()?).filter(|lsn| lsn.is_valid()),
            records: fields.u64()?,
            first_commit: None,
            last_commit: None,
        };
        let file_bytes = fields.u64()?;
        span.first_commit = fields.time()?;
        span.last_commit = fields.time()?;
        let data_crc = fields.u32()?;
        let frame_bytes = fields.u32()?;
        let frames = u64::from(fields.u32()?);
        fields.u32()?;
        if frame_bytes as usize != FRAME_BYTES
            || file_bytes > MAX_OBJECT_BYTES
            || frames != file_bytes.div_ceil(FRAME_BYTES as u64)
            || fields.0.len() as u64 != 4 * frames
            || data_bytes > file_bytes
        {
            return Err(PackError::Index("its lengths do not fit together"));
        }
        let mut ends = Vec::with_capacity(fields.0.len() / 4);
        let mut end = 0;
        while !fields.0.is_empty() {
            end += u64::from(fields.u32()?);
            ends.push(end);
        }
        Ok(Index {
            contents: Contents {
                kind,
                system_id,
                timeline,
                segment_bytes,
                data_bytes,
                data_crc,
                span: (has_span == 1).then_some(span),
            },
            file_bytes,
            ends,
            packed_bytes: end + FRAME_HEADER as u64 + u64::from(body_bytes),
        })
    }

    pub fn contents(&self) -> &Contents {
        &self.contents
    }

    /// The index of a file of so many bytes takes so many at the end of its object.
    pub fn tail_bytes(file_bytes: u64) -> u64 {
        (FRAME_HEADER + FIXED + FOOTER) as u64 + 4 * file_bytes.div_ceil(FRAME_BYTES as u64)
    }

    /// Length of the file.
    pub fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// Length of the object.
    pub fn packed_bytes(&self) -> u64 {
        self.packed_bytes
    }

    pub fn frame_count(&self) -> usize {
        self.ends.len()
    }

    /// Where a frame lies in the object.
    pub fn frame(&self, number: usize) -> Option<Range<u64>> {
        let end = *self.ends.get(number)?;
        let start = match number.checked_sub(1) {
            Some(before) => *self.ends.get(before)?,
            None => 0,
        };
        Some(start..end)
    }

    /// How many bytes of the file a frame holds.
    pub(super) fn frame_file_bytes(&self, number: usize) -> usize {
        let start = number as u64 * FRAME_BYTES as u64;
        let bytes = self.file_bytes.saturating_sub(start).min(FRAME_BYTES as u64);
        usize::try_from(bytes).expect("at most a frame's bytes")
    }
}
