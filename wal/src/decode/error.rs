//! Why WAL stops being readable.

use skytide_sql::Lsn;

use crate::format::record::BadLayout;
use crate::format::rmgr::Rmgr;
use crate::format::version::{Major, UnknownMagic};

/// No valid WAL at a position. Whether that is the end of what was written or damage, the bytes alone do not always
/// say: see [`crate::verify`].
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{}", describe(*.lsn, .fault, *.unfinished))]
pub struct WalError {
    /// The page or record that is not valid: its first byte.
    pub lsn: Lsn,
    /// Behind the last byte that was looked at to say so. Bytes below a server's flush position are final.
    pub seen_to: Lsn,
    pub fault: WalFault,
    /// A record whose beginning was read, if a later page ended it.
    pub unfinished: Option<Lsn>,
}

fn describe(lsn: Lsn, fault: &WalFault, unfinished: Option<Lsn>) -> String {
    match unfinished {
        Some(record) => format!("page {lsn}: {fault}; the record at {record} is unfinished"),
        None => format!("{} {lsn}: {fault}", fault.subject()),
    }
}

/// What is wrong with a page or a record.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WalFault {
    #[error(transparent)]
    Magic(UnknownMagic),
    #[error("the page is of PostgreSQL {found}, the WAL before it of {expected}")]
    OtherMajor { expected: Major, found: Major },
    #[error("flag bits {0:04X} do not exist")]
    PageFlags(u16),
    #[error("a segment's first page needs a long header")]
    NoLongHeader,
    #[error("a long header in the middle of a segment")]
    StrayLongHeader,
    #[error("the page is of system {found}, not {expected}")]
    SystemId { expected: u64, found: u64 },
    #[error("the header says segments of {found} bytes, not {expected}")]
    SegmentSize { expected: u32, found: u32 },
    #[error("the header says pages of {found} bytes, not {expected}")]
    PageSize { expected: u32, found: u32 },
    #[error("the page says it is {found}: a file that was used before, or misplaced")]
    Address { found: Lsn },
    #[error("the page is of timeline {found}, which this WAL does not come from")]
    Timeline { found: u32 },
    #[error("the page is of timeline {found}, after pages of {before}")]
    TimelineBackwards { before: u32, found: u32 },
    #[error("the record that began at {record} does not go on here")]
    NotContinued { record: Lsn },
    #[error("a record goes on here that did not begin before")]
    NothingToContinue,
    #[error("{found} bytes of a record go on here, but {expected} are missing")]
    ContinuedLength { expected: u32, found: u32 },
    #[error("the page gives up a record, but its first record does not say which, or another one")]
    Overwrite,
    #[error("nothing was written here (record length 0)")]
    Blank,
    #[error("impossible record length {0}")]
    Length(u32),
    #[error("no resource manager {}", .0.as_u8())]
    Rmgr(Rmgr),
    #[error("the record says it follows the one at {found}, but the last one is at {expected}")]
    Previous { expected: Lsn, found: Lsn },
    #[error("the record says it follows the one at {found}, which is not before it")]
    PreviousAhead { found: Lsn },
    #[error("wrong checksum: {stored:08X} is stored, {computed:08X} computed ({rmgr}, {length} bytes)")]
    Crc {
        stored: u32,
        computed: u32,
        rmgr: Rmgr,
        length: u32,
    },
    #[error("a record with a right checksum that no server writes: {0}")]
    Layout(BadLayout),
}

impl WalFault {
    /// Of the page, not of a record on it.
    pub const fn is_of_page(&self) -> bool {
        match self {
            WalFault::Magic(_)
            | WalFault::OtherMajor { .. }
            | WalFault::PageFlags(_)
            | WalFault::NoLongHeader
            | WalFault::StrayLongHeader
            | WalFault::SystemId { .. }
            | WalFault::SegmentSize { .. }
            | WalFault::PageSize { .. }
            | WalFault::Address { .. }
            | WalFault::Timeline { .. }
            | WalFault::TimelineBackwards { .. }
            | WalFault::NotContinued { .. }
            | WalFault::NothingToContinue
            | WalFault::ContinuedLength { .. } => true,
            WalFault::Overwrite
            | WalFault::Blank
            | WalFault::Length(_)
            | WalFault::Rmgr(_)
            | WalFault::Previous { .. }
            | WalFault::PreviousAhead { .. }
            | WalFault::Crc { .. }
            | WalFault::Layout(_) => false,
        }
    }

    const fn subject(&self) -> &'static str {
        if self.is_of_page() { "page" } else { "record" }
    }

    /// Zeros where a page or a record should begin: space that was reserved and not written yet.
    pub const fn is_blank(&self) -> bool {
        matches!(self, WalFault::Blank | WalFault::Magic(UnknownMagic::Blank))
    }
}
