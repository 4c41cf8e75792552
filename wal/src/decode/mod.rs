//! From bytes to records, without I/O: bytes of the WAL go in, in any pieces, and come out as records, as "more", or as
//! an error at a position. A record that lies in one page of one piece is not copied; others are put together in one
//! buffer that is used again. Nothing is allocated on the word of a length field.
//!
//! ```
//! # use skytide_wal::{Decoder, Expected, SegmentNo, SegmentSize, WalError};
//! fn transactions(segment: &[u8], number: SegmentNo, size: SegmentSize) -> Result<u64, WalError> {
//!     let mut decoder = Decoder::new(number.start(size), size, Expected::default());
//!     let mut records = decoder.feed(segment);
//!     let mut transactions = 0;
//!     while let Some(record) = records.next_record()? {
//!         transactions += u64::from(record.transaction_end().is_some());
//!     }
//!     Ok(transactions)
//! }
//! ```

mod error;
mod expected;
mod page;
mod record;

#[cfg(test)]
mod tests;

use skytide_sql::Lsn;

pub use error::{WalError, WalFault};
pub use expected::{Expected, Timelines};
pub use record::Record;

use crate::format::cursor::Cursor;
use crate::format::page::{LONG_HEADER, PageSize};
use crate::format::record::{CRC_OFFSET, HEADER, Layout, MAX_LENGTH, RecordHeader};
use crate::format::rmgr::Rmgr;
use crate::format::version::Format;
use crate::format::{ALIGNMENT, crc};
use crate::segment::{SegmentNo, SegmentSize};

/// The buffer for records in pieces keeps at most this much between records.
const KEPT_BUFFER: usize = 1 << 20;

/// Reads WAL from one position on. After an error it gives the same error for ever: what follows a bad byte is not WAL
/// until somebody decides where to begin again.
#[derive(Debug)]
pub struct Decoder {
    segment_size: SegmentSize,
    page_size: PageSize,
    expected: Expected,
    /// Of the last page header.
    format: Option<&'static Format>,
    page_timeline: u32,
    /// Of the next byte to come.
    position: Lsn,
    /// The header of the page at `position` was read.
    in_page: bool,
    /// No page header was read yet.
    cold: bool,
    partial_header: PartialHeader,
    state: State,
    /// The record in pieces, or the last one that was.
    buffer: Vec<u8>,
    layout: Layout,
    /// Start of the last good record.
    previous: Option<Lsn>,
    boundary: Option<Lsn>,
    /// The next record must say that it replaces one: the one named here, if its beginning was seen.
    overwrite: Option<Option<Lsn>>,
    head: Head,
    stray: Option<Lsn>,
    failed: Option<WalError>,
}

/// What the next byte belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// Nothing: up to here the caller knows the WAL, and wants it from there on.
    Seeking(Lsn),
    /// A record that began before our start. So many bytes of it are to come.
    Foreign(u32),
    /// The space between records, or the next record's first byte.
    Between,
    /// The record that begins there.
    Inside(Lsn),
    /// The rest of a segment after a switch: zeros, without page headers.
    Switched,
}

/// A page header of which not all bytes have come.
#[derive(Debug)]
struct PartialHeader {
    bytes: [u8; LONG_HEADER],
    filled: usize,
}

/// The end of a record that began before the start, which cannot be checked without its beginning.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Head {
    /// Bytes that the first page says it has.
    pub announced: u32,
    /// Bytes of it that were read.
    pub length: u32,
    /// CRC-32C of those.
    pub crc: u32,
    /// The first of those, which may be a part of its header.
    pub first: [u8; HEADER],
}

/// A record of which not all bytes have come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unfinished<'a> {
    pub lsn: Lsn,
    pub bytes: &'a [u8],
}

/// Where a whole record was found.
struct Found<'i> {
    lsn: Lsn,
    header: RecordHeader,
    /// In the input, or else in the buffer.
    bytes: Option<&'i [u8]>,
}

impl Decoder {
    /// Reads from `start`: a page's first byte (usually a segment's), where a record that goes on there is passed over,
    /// or the first byte of a record. Bytes are wanted from [`Decoder::position`] on, the start of that page.
    pub fn new(start: Lsn, segment_size: SegmentSize, expected: Expected) -> Decoder {
        let page_size = PageSize::DEFAULT;
        let position = page_size.start_of(start);
        let inside = position != start;
        Decoder {
            segment_size,
            page_size,
            format: expected.major.map(Format::of_major),
            expected,
            page_timeline: 0,
            position,
            in_page: false,
            cold: true,
            partial_header: PartialHeader {
                bytes: [0; LONG_HEADER],
                filled: 0,
            },
            state: if inside {
                State::Seeking(start)
            } else {
                State::Between
            },
            buffer: Vec::new(),
            layout: Layout::default(),
            previous: None,
            boundary: inside.then_some(start),
            overwrite: None,
            head: Head::default(),
            stray: None,
            failed: None,
        }
    }

    /// Goes on at `boundary`, the end of a good record that began at `previous`: the next record has to name it.
    pub fn resume(boundary: Lsn, previous: Lsn, segment_size: SegmentSize, expected: Expected) -> Decoder {
        let mut decoder = Decoder::new(boundary, segment_size, expected);
        decoder.previous = Some(previous);
        decoder.boundary = Some(boundary);
        decoder.cold = false;
        decoder
    }

    /// The position of the next byte to feed.
    pub fn position(&self) -> Lsn {
        self.position
    }

    /// The end of the last whole, valid record, where the next one begins (after that page's header, if it is a page's
    /// start). A start in the middle of a page counts as one, on the caller's word; before any is known, `None`.
    pub fn record_boundary(&self) -> Option<Lsn> {
        self.boundary
    }

    /// Start of the last whole, valid record.
    pub fn last_record(&self) -> Option<Lsn> {
        self.previous
    }

    /// The record that ends the WAL fed so far and is not whole yet.
    pub fn unfinished(&self) -> Option<Unfinished<'_>> {
        match self.state {
            State::Inside(lsn) if !self.buffer.is_empty() => Some(Unfinished {
                lsn,
                bytes: &self.buffer,
            }),
            _ => None,
        }
    }

    /// What was passed over at the start: the end of a record that began before it.
    pub fn head(&self) -> Head {
        self.head
    }

    /// Whether the WAL fed so far ended with a switch of segments, and that segment is not over yet.
    pub fn is_switched(&self) -> bool {
        self.state == State::Switched
    }

    /// The first byte that is not zero where PostgreSQL writes zeros: between records, in page headers, after a switch.
    /// Redo does not read it, so it harms nobody; but it is not what the server wrote.
    pub fn stray_byte(&self) -> Option<Lsn> {
        self.stray
    }

    /// The system whose WAL this is, as told by the caller or by a segment's first page.
    pub fn system_id(&self) -> Option<u64> {
        self.expected.system_id
    }

    /// As the first segment's header says, or the usual one before it is read.
    pub fn page_size(&self) -> PageSize {
        self.page_size
    }

    /// The version of the last page.
    pub fn format(&self) -> Option<&'static Format> {
        self.format
    }

    /// The timeline of the last page.
    pub fn page_timeline(&self) -> Option<crate::TimelineId> {
        crate::TimelineId::new(self.page_timeline)
    }

    /// Takes the bytes from [`Decoder::position`] on. Read the records until there is none: what is left unread when
    /// the [`Feed`] goes is not remembered, and `position` says where to go on.
    pub fn feed<'d, 'i>(&'d mut self, bytes: &'i [u8]) -> Feed<'d, 'i> {
        Feed {
            decoder: self,
            input: bytes,
        }
    }

    fn advance<'i>(&mut self, input: &mut &'i [u8]) -> Result<Option<Found<'i>>, WalError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        self.try_advance(input)
            .inspect_err(|error| self.failed = Some(error.clone()))
    }

    fn try_advance<'i>(&mut self, input: &mut &'i [u8]) -> Result<Option<Found<'i>>, WalError> {
        loop {
            if input.is_empty() {
                return Ok(None);
            }
            if self.state == State::Switched {
                let left = self.segment_size.bytes() - u64::from(self.segment_size.offset_of(self.position));
                let zeros = self.consume(input, left);
                self.expect_zeros(zeros);
                if self.segment_size.offset_of(self.position) == 0 {
                    self.state = State::Between;
                }
                continue;
            }
            if !self.in_page {
                if !self.page_header(input)? {
                    return Ok(None);
                }
                continue;
            }
            match self.state {
                State::Seeking(start) => {
                    self.consume(input, start.as_u64().saturating_sub(self.position.as_u64()));
                    // The caller's start may lie in the page's header: then it is the first record.
                    if self.position >= start {
                        self.state = State::Between;
                    }
                }
                State::Foreign(left) => {
                    let bytes = self.consume(input, u64::from(left));
                    let left = left - bytes.len() as u32;
                    self.head.add(bytes);
                    self.state = if left == 0 {
                        State::Between
                    } else {
                        State::Foreign(left)
                    };
                }
                State::Between => {
                    let padding = self.position.as_u64().wrapping_neg() % ALIGNMENT;
                    if padding > 0 {
                        let blank = padding_is_blank(input, padding);
                        let zeros = self.consume(input, padding);
                        if !blank {
                            self.expect_zeros(zeros);
                        }
                        continue;
                    }
                    if let Some(found) = self.record_start(input)? {
                        return Ok(Some(found));
                    }
                }
                State::Inside(lsn) => {
                    if let Some(found) = self.record_piece(lsn, input)? {
                        return Ok(Some(found));
                    }
                }
                State::Switched => {}
            }
        }
    }

    /// Takes up to `count` bytes of this page.
    #[inline]
    fn consume<'i>(&mut self, input: &mut &'i [u8], count: u64) -> &'i [u8] {
        let page_left = self.page_size.bytes() - self.page_size.offset_of(self.position);
        let count = count.min(page_left);
        let count = usize::try_from(count).map_or(input.len(), |count| count.min(input.len()));
        let (taken, rest) = input.split_at_checked(count).unwrap_or((input, &[]));
        *input = rest;
        self.position = Lsn::new(self.position.as_u64().wrapping_add(taken.len() as u64));
        if self.page_size.offset_of(self.position) == 0 && !taken.is_empty() {
            self.in_page = false;
        }
        taken
    }

    /// Notes the first byte of what was just consumed that is not zero.
    fn expect_zeros(&mut self, consumed: &[u8]) {
        if self.stray.is_none()
            && let Some(index) = consumed.iter().position(|&byte| byte != 0)
        {
            let before_end = (consumed.len() - index) as u64;
            self.stray = Some(Lsn::new(self.position.as_u64().wrapping_sub(before_end)));
        }
    }

    /// At a record's first byte. A record that lies here as a whole is taken as it is.
    #[inline]
    fn record_start<'i>(&mut self, input: &mut &'i [u8]) -> Result<Option<Found<'i>>, WalError> {
        let lsn = self.position;
        let page_left = (self.page_size.bytes() - self.page_size.offset_of(lsn)) as usize;
        let here = input.get(..page_left).unwrap_or(input);
        if let Ok(header) = RecordHeader::parse(&mut Cursor::new(here)) {
            self.check_header(lsn, HEADER as u32, &header)?;
            if let Some(record) = here.get(..header.length as usize) {
                self.finish(lsn, header.length, &header, record)?;
                self.consume(input, u64::from(header.length));
                self.after(lsn, &header);
                return Ok(Some(Found {
                    lsn,
                    header,
                    bytes: Some(record),
                }));
            }
        }
        self.buffer.clear();
        self.buffer.shrink_to(KEPT_BUFFER);
        self.state = State::Inside(lsn);
        Ok(None)
    }

    /// Inside a record that is put together in the buffer.
    fn record_piece<'i>(&mut self, lsn: Lsn, input: &mut &'i [u8]) -> Result<Option<Found<'i>>, WalError> {
        let missing = match self.record_length() {
            // The length never crosses a page's end, the rest of the header may.
            None => 4 - self.buffer.len() as u64,
            Some(_) if self.buffer.len() < HEADER => (HEADER - self.buffer.len()) as u64,
            Some(length) => u64::from(length) - self.buffer.len() as u64,
        };
        let piece = self.consume(input, missing);
        self.buffer.extend_from_slice(piece);
        match (self.buffer.len(), self.record_length()) {
            (4, Some(length)) => self.check_length(lsn, 0, length)?,
            (HEADER.., Some(length)) => {
                let at_error = |_| self.error(lsn, 0, WalFault::Length(length));
                let header = RecordHeader::parse(&mut Cursor::new(&self.buffer)).map_err(at_error)?;
                if self.buffer.len() == HEADER {
                    self.check_header(lsn, 0, &header)?;
                }
                if self.buffer.len() as u64 == u64::from(length) {
                    let record = std::mem::take(&mut self.buffer);
                    let finished = self.finish(lsn, 0, &header, &record);
                    self.buffer = record;
                    finished?;
                    self.after(lsn, &header);
                    return Ok(Some(Found {
                        lsn,
                        header,
                        bytes: None,
                    }));
                }
            }
            _ => {}
        }
        Ok(None)
    }

    /// As the buffered record says itself, once its first bytes are there.
    fn record_length(&self) -> Option<u32> {
        self.buffer.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
    }

    fn check_length(&self, lsn: Lsn, ahead: u32, length: u32) -> Result<(), WalError> {
        let fault = match length {
            0 => WalFault::Blank,
            _ if (length as usize) < HEADER || length > MAX_LENGTH => WalFault::Length(length),
            _ => return Ok(()),
        };
        Err(self.error(lsn, ahead, fault))
    }

    /// Before its length is trusted.
    #[inline]
    fn check_header(&self, lsn: Lsn, ahead: u32, header: &RecordHeader) -> Result<(), WalError> {
        self.check_length(lsn, ahead, header.length)?;
        let found = header.previous;
        let fault = match (self.format, self.previous) {
            (Some(format), _) if !header.rmgr.exists(format) => WalFault::Rmgr(header.rmgr),
            (_, Some(expected)) if found != expected => WalFault::Previous { expected, found },
            (_, None) if found >= lsn => WalFault::PreviousAhead { found },
            _ => return Ok(()),
        };
        Err(self.error(lsn, ahead, fault))
    }

    /// A whole record whose header is good: is the rest?
    #[inline]
    fn finish(&mut self, lsn: Lsn, ahead: u32, header: &RecordHeader, record: &[u8]) -> Result<(), WalError> {
        let computed = crc::of_record(record).unwrap_or_default();
        if computed != header.crc {
            let fault = WalFault::Crc {
                stored: header.crc,
                computed,
                rmgr: header.rmgr,
                length: header.length,
            };
            return Err(self.error(lsn, ahead, fault));
        }
        if let Some(format) = self.format {
            let layout = self.layout.read(record, format, self.expected.block_size);
            layout.map_err(|bad| self.error(lsn, ahead, WalFault::Layout(bad)))?;
        }
        if let Some(void) = self.overwrite.take() {
            let replaced = (header.rmgr == Rmgr::XLOG && header.opcode() == record::OVERWRITE_CONTRECORD)
                .then(|| Cursor::new(self.layout.main.of(record)).u64().ok().map(Lsn::new))
                .flatten();
            if replaced.is_none() || void.is_some_and(|void| replaced != Some(void)) {
                return Err(self.error(lsn, ahead, WalFault::Overwrite));
            }
        }
        Ok(())
    }

    /// The record is good and consumed.
    #[inline]
    fn after(&mut self, lsn: Lsn, header: &RecordHeader) {
        self.previous = Some(lsn);
        let end = self.position.as_u64();
        let mut boundary = end.wrapping_add(end.wrapping_neg() % ALIGNMENT);
        self.state = State::Between;
        if header.rmgr == Rmgr::XLOG && header.opcode() == record::SWITCH {
            // The last byte before the position is in the segment that ends.
            let segment = SegmentNo::ending_at(self.position, self.segment_size);
            boundary = segment.end(self.segment_size).as_u64();
            if end != boundary {
                self.state = State::Switched;
            }
        }
        self.boundary = Some(Lsn::new(boundary));
    }

    /// `ahead`: bytes from the position on that were looked at, but not taken.
    fn error(&self, lsn: Lsn, ahead: u32, fault: WalFault) -> WalError {
        WalError {
            lsn,
            seen_to: Lsn::new(self.position.as_u64().saturating_add(u64::from(ahead))),
            fault,
            unfinished: match self.state {
                State::Inside(record) if record != lsn => Some(record),
                _ => None,
            },
        }
    }
}

impl Head {
    fn add(&mut self, bytes: &[u8]) {
        let filled = (self.length as usize).min(HEADER);
        if let Some(room) = self.first.get_mut(filled..) {
            room.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        }
        self.crc = crc::append(self.crc, bytes);
        self.length += bytes.len() as u32;
    }
}

/// Whether the next bytes, fewer than 8, are zeros; `false` if that is not known. How many there are differs from record
/// to record, and a loop over them costs a wrong guess of the processor for each record.
#[inline]
fn padding_is_blank(input: &[u8], padding: u64) -> bool {
    let word = input.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
    word.is_some_and(|word| word & !(u64::MAX << (8 * padding)) == 0)
}

/// Bytes being read by a [`Decoder`].
#[derive(Debug)]
pub struct Feed<'d, 'i> {
    decoder: &'d mut Decoder,
    input: &'i [u8],
}

impl Feed<'_, '_> {
    /// The next record, valid down to its structure; `None` when all bytes are used up and more are needed.
    pub fn next_record(&mut self) -> Result<Option<Record<'_>>, WalError> {
        let Some(found) = self.decoder.advance(&mut self.input)? else {
            return Ok(None);
        };
        let decoder = &*self.decoder;
        let Some(format) = decoder.format else {
            return Ok(None);
        };
        Ok(Some(Record {
            lsn: found.lsn,
            end_lsn: decoder.boundary.unwrap_or(decoder.position),
            header: found.header,
            bytes: found.bytes.unwrap_or(&decoder.buffer),
            layout: &decoder.layout,
            format,
        }))
    }

    /// Positions and states, between records.
    pub fn decoder(&self) -> &Decoder {
        self.decoder
    }
}

// The checksum's place is in the header's last four bytes.
const _: () = assert!(CRC_OFFSET + 4 == HEADER);
