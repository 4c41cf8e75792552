//! One segment, standing alone.

use skytide_sql::Lsn;

use super::judge::{self, Proof, Tail, TailKind};
use crate::commit::{Outcome, TransactionEnd};
use crate::decode::{Decoder, Expected, Head, Record, WalError};
use crate::format::crc;
use crate::format::record::HEADER;
use crate::format::rmgr::Rmgr;
use crate::format::version::Major;
use crate::segment::{SegmentNo, SegmentSize};
use crate::walsender::Timestamp;

/// What is known of a segment before its bytes are read.
#[derive(Clone, Debug)]
pub struct SegmentContext {
    /// Which one it has to be, by its name.
    pub number: SegmentNo,
    pub size: SegmentSize,
    pub expected: Expected,
    pub tail: Tail,
}

/// What was found in a segment.
#[derive(Clone, Debug)]
pub struct SegmentReport {
    pub number: SegmentNo,
    pub size: SegmentSize,
    pub system_id: Option<u64>,
    pub major: Option<Major>,
    /// The end of a record that began in an earlier segment. Unchecked: only [`Chain`](super::Chain) can.
    pub head: Head,
    /// Start of the first record that begins here. A segment inside a long record has none.
    pub first_record: Option<Lsn>,
    /// The record that the first one says it follows.
    pub chain_in: Option<Lsn>,
    /// The first record takes the place of one that was given up after a crash: of the one that began there.
    pub replaces: Option<Lsn>,
    /// Start of the last whole record.
    pub chain_out: Option<Lsn>,
    /// End of the last whole record.
    pub boundary: Option<Lsn>,
    /// The record that goes on in the next segment.
    pub open: Option<OpenRecord>,
    /// Whole records that begin here.
    pub records: u64,
    pub commits: Commits,
    /// The first byte that is not zero where PostgreSQL writes zeros and reads nothing.
    pub stray_byte: Option<Lsn>,
    pub ended: Ended,
}

/// Transactions that end in a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Commits {
    pub committed: u64,
    pub aborted: u64,
    /// Times of the first commit and of the last one by position: the clock may have been set back.
    pub first: Option<Timestamp>,
    pub last: Option<Timestamp>,
}

/// A record whose beginning is known: enough of it to check the whole when the rest comes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OpenRecord {
    pub lsn: Lsn,
    /// Bytes of the whole record.
    pub length: u32,
    /// Bytes that were seen.
    pub seen: u32,
    /// Its first bytes, as far as they were seen.
    pub header: [u8; HEADER],
    /// CRC-32C of what was seen behind the header.
    pub payload_crc: u32,
}

/// Why a segment's WAL ends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Ended {
    /// At its last byte, maybe inside a record that goes on.
    Complete,
    /// The server went to the next segment before this one was full.
    Switch,
    /// Before its last byte, and nothing says that there was more: a live server's end, or where one died.
    Torn { tail: TailKind, stop: Option<WalError> },
    /// There was more, and it is damaged.
    Corrupt { stop: WalError, proof: Proof },
}

impl Ended {
    /// All of the segment is good.
    pub const fn is_whole(&self) -> bool {
        matches!(self, Ended::Complete | Ended::Switch)
    }

    pub const fn is_corrupt(&self) -> bool {
        matches!(self, Ended::Corrupt { .. })
    }
}

impl Commits {
    pub fn add(&mut self, end: &TransactionEnd) {
        match end.outcome {
            Outcome::Committed => {
                self.committed += 1;
                self.first.get_or_insert(end.time);
                self.last = Some(end.time);
            }
            Outcome::Aborted => self.aborted += 1,
        }
    }
}

impl OpenRecord {
    pub(super) fn of(lsn: Lsn, bytes: &[u8]) -> Option<OpenRecord> {
        let (start, payload) = bytes.split_at_checked(HEADER).unwrap_or((bytes, &[]));
        let mut header = [0; HEADER];
        header.iter_mut().zip(start).for_each(|(to, from)| *to = *from);
        Some(OpenRecord {
            lsn,
            length: u32::from_le_bytes(*start.first_chunk()?),
            seen: u32::try_from(bytes.len()).ok()?,
            header,
            payload_crc: crc::append(0, payload),
        })
    }
}

/// Checks the bytes of one segment; fewer than the segment's size are its beginning.
pub fn verify_segment(bytes: &[u8], context: &SegmentContext) -> SegmentReport {
    let start = context.number.start(context.size);
    let size = usize::try_from(context.size.bytes()).unwrap_or(usize::MAX);
    let bytes = bytes.get(..size).unwrap_or(bytes);
    let mut decoder = Decoder::new(start, context.size, context.expected.clone());
    let mut scan = Scan::default();
    let stop = scan.read(&mut decoder, bytes);
    let whole = bytes.len() == size;
    let ended = match stop {
        None if whole && scan.switched => Ended::Switch,
        None if whole => Ended::Complete,
        None => Ended::Torn {
            tail: TailKind::Short,
            stop: None,
        },
        Some(stop) => {
            let later = || judge::later_record(bytes, context, &stop, decoder.page_size());
            judge::judge(stop.clone(), &context.tail, later)
        }
    };
    let unfinished = decoder.unfinished().filter(|_| ended == Ended::Complete);
    SegmentReport {
        number: context.number,
        size: context.size,
        system_id: decoder.system_id(),
        major: decoder.format().map(|format| format.major),
        head: decoder.head(),
        first_record: scan.first_record,
        chain_in: scan.chain_in,
        replaces: scan.replaces,
        chain_out: decoder.last_record(),
        boundary: decoder.record_boundary(),
        open: unfinished.and_then(|record| OpenRecord::of(record.lsn, record.bytes)),
        records: scan.records,
        commits: scan.commits,
        stray_byte: decoder.stray_byte(),
        ended,
    }
}

#[derive(Default)]
struct Scan {
    first_record: Option<Lsn>,
    chain_in: Option<Lsn>,
    replaces: Option<Lsn>,
    records: u64,
    commits: Commits,
    switched: bool,
}

impl Scan {
    fn read(&mut self, decoder: &mut Decoder, bytes: &[u8]) -> Option<WalError> {
        let mut feed = decoder.feed(bytes);
        loop {
            match feed.next_record() {
                Ok(Some(record)) => self.add(&record),
                Ok(None) => return None,
                Err(stop) => return Some(stop),
            }
        }
    }

    fn add(&mut self, record: &Record<'_>) {
        if self.first_record.is_none() {
            self.first_record = Some(record.lsn);
            self.chain_in = Some(record.header.previous);
            self.replaces = record.replaced_record();
        }
        self.records += 1;
        if record.rmgr() == Rmgr::TRANSACTION
            && let Some(end) = record.transaction_end()
        {
            self.commits.add(&end);
        }
        self.switched = record.is_switch();
    }
}
