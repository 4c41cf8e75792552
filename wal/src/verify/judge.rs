//! Whether a stop is the end of the WAL or damage. The bytes at the stop do not say; what else is known does.

use std::fmt;

use skytide_sql::Lsn;

use super::segment::{Ended, SegmentContext};
use crate::decode::{Decoder, WalError, WalFault};
use crate::format::page::PageSize;

/// What is known of where a segment's WAL ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tail {
    /// The server is done with it: it was handed to the archiver, or a later segment follows. WAL that stops is damage.
    Closed,
    /// A server has written and synced everything below this (`pg_current_wal_flush_lsn`). It need not be a record's end.
    FlushedTo(Lsn),
    /// Only what stands behind the stop can tell.
    Unknown,
}

/// What stands where the WAL ends.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum TailKind {
    /// Zeros: space that was not written yet.
    Blank,
    /// What the file held before it was used again.
    Recycled,
    /// A record of which not all was written.
    Torn,
    /// Nothing: the bytes end.
    Short,
}

impl fmt::Display for TailKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TailKind::Blank => "unwritten space",
            TailKind::Recycled => "what the file held before",
            TailKind::Torn => "a record that was not written to its end",
            TailKind::Short => "the end of the file",
        })
    }
}

/// Why a stop is damage.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Proof {
    /// The file was closed.
    Closed,
    /// The server had synced all of it, up to there.
    Flushed(Lsn),
    /// A good record stands behind it and follows one that is not read. (After a crash of the whole machine it may have
    /// reached the disk before what precedes it: then recovery ends at the stop, too.)
    Followed(Lsn),
    /// The file is not of this cluster.
    Foreign,
}

impl fmt::Display for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Proof::Closed => f.write_str("the segment was finished"),
            Proof::Flushed(lsn) => write!(f, "the server had synced its WAL up to {lsn}"),
            Proof::Followed(lsn) => write!(f, "the WAL goes on with a good record at {lsn}"),
            Proof::Foreign => f.write_str("the file belongs to another cluster or version"),
        }
    }
}

/// `later` looks for a good record behind the stop.
pub(super) fn judge(stop: WalError, tail: &Tail, later: impl FnOnce() -> Option<Lsn>) -> Ended {
    let proof = match (&stop.fault, tail) {
        (
            WalFault::SystemId { .. }
            | WalFault::OtherMajor { .. }
            | WalFault::SegmentSize { .. }
            | WalFault::PageSize { .. },
            _,
        ) => Some(Proof::Foreign),
        (_, Tail::Closed) => Some(Proof::Closed),
        // Bytes below the flush position are final. What was judged by bytes above it may still change.
        (_, Tail::FlushedTo(flush)) => (stop.seen_to <= *flush).then_some(Proof::Flushed(*flush)),
        (_, Tail::Unknown) => later().map(Proof::Followed),
    };
    match proof {
        Some(proof) => Ended::Corrupt { stop, proof },
        None => Ended::Torn {
            tail: kind(&stop),
            stop: Some(stop),
        },
    }
}

fn kind(stop: &WalError) -> TailKind {
    match stop.fault {
        _ if stop.unfinished.is_some() => TailKind::Torn,
        WalFault::Address { .. } | WalFault::TimelineBackwards { .. } | WalFault::Timeline { .. } => {
            TailKind::Recycled
        }
        _ if stop.fault.is_blank() => TailKind::Blank,
        // Garbage where a record should begin is an older record's middle; a wrong sum is a newer one's missing end.
        WalFault::Previous { .. }
        | WalFault::PreviousAhead { .. }
        | WalFault::NothingToContinue
        | WalFault::Rmgr(_)
        | WalFault::Length(_) => TailKind::Recycled,
        _ => TailKind::Torn,
    }
}

/// The first record on a later page that is good and follows a record at the stop or behind it.
pub(super) fn later_record(
    bytes: &[u8],
    context: &SegmentContext,
    stop: &WalError,
    page_size: PageSize,
) -> Option<Lsn> {
    let start = context.number.start(context.size);
    let first = page_size
        .start_of(stop.lsn)
        .as_u64()
        .saturating_sub(start.as_u64());
    let page = page_size.as_u32() as usize;
    let mut offset = usize::try_from(first).ok()?.checked_add(page)?;
    while let Some(rest) = bytes.get(offset..).filter(|rest| !rest.is_empty()) {
        let at = Lsn::new(start.as_u64() + offset as u64);
        let mut decoder = Decoder::new(at, context.size, context.expected.clone());
        if let Ok(Some(record)) = decoder.feed(rest).next_record()
            && record.header.previous >= stop.lsn
        {
            return Some(record.lsn);
        }
        offset += page;
    }
    None
}
