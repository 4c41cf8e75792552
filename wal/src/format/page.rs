//! Page headers (`access/xlog_internal.h`, `XLogPageHeaderData` and `XLogLongPageHeaderData`).

use skytide_sql::Lsn;

use super::cursor::{Cursor, TooShort};
use crate::segment::SegmentSize;

/// Bytes of the header on every page but a file's first.
pub const SHORT_HEADER: usize = 24;
/// Bytes of the header on a file's first page.
pub const LONG_HEADER: usize = 40;

/// Bits of `xlp_info`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageFlags(u16);

impl PageFlags {
    /// The page begins inside a record that began before it.
    pub const CONTINUES_RECORD: PageFlags = PageFlags(1);
    /// The header is a long one.
    pub const LONG: PageFlags = PageFlags(2);
    /// No base backup was running; nothing depends on it.
    pub const BACKUP_BLOCKS_REMOVABLE: PageFlags = PageFlags(4);
    /// The record that would go on here was given up after a crash; another one begins.
    pub const OVERWRITES_RECORD: PageFlags = PageFlags(8);
    pub const ALL: PageFlags = PageFlags(15);

    pub const fn contains(self, flag: PageFlags) -> bool {
        self.0 & flag.0 == flag.0
    }

    pub const fn bits(self) -> u16 {
        self.0
    }
}

/// What every page says of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageHeader {
    pub magic: u16,
    pub flags: PageFlags,
    /// The timeline of the page, not always its file's: a new timeline's first file begins with pages of its parent.
    pub timeline: u32,
    /// Position of the page's first byte.
    pub address: Lsn,
    /// Bytes of a continued record still to come, this page's included.
    pub remaining: u32,
    /// Four bytes nothing is written to.
    pub padding: u32,
}

impl PageHeader {
    #[inline]
    pub fn parse(cursor: &mut Cursor<'_>) -> Result<PageHeader, TooShort> {
        Ok(PageHeader {
            magic: cursor.u16()?,
            flags: PageFlags(cursor.u16()?),
            timeline: cursor.u32()?,
            address: Lsn::new(cursor.u64()?),
            remaining: cursor.u32()?,
            padding: cursor.u32()?,
        })
    }
}

/// What a file's first page says beside that.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LongHeader {
    pub system_id: u64,
    /// Bytes of a segment, as stored.
    pub segment_size: u32,
    /// Bytes of a page (`XLOG_BLCKSZ`), as stored.
    pub page_size: u32,
}

impl LongHeader {
    /// The part after a [`PageHeader`].
    pub fn parse(cursor: &mut Cursor<'_>) -> Result<LongHeader, TooShort> {
        Ok(LongHeader {
            system_id: cursor.u64()?,
            segment_size: cursor.u32()?,
            page_size: cursor.u32()?,
        })
    }

    /// Both headers at the start of a file, if it begins with a long header whose sizes are possible. Nothing
    /// else is checked: this is how a file tells its own segment size.
    pub fn peek(file: &[u8]) -> Option<(PageHeader, LongHeader, SegmentSize)> {
        let mut cursor = Cursor::new(file);
        let page = PageHeader::parse(&mut cursor).ok()?;
        let long = LongHeader::parse(&mut cursor).ok()?;
        let size = SegmentSize::new(long.segment_size)?;
        let whole = page.flags.contains(PageFlags::LONG) && PageSize::new(long.page_size).is_some();
        whole.then_some((page, long, size))
    }
}

/// Bytes of a WAL page: a power of two from 1 KiB to 64 KiB, chosen when the server was compiled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageSize(u32);

impl PageSize {
    /// What servers are compiled with unless somebody decides otherwise.
    pub const DEFAULT: PageSize = PageSize(8192);

    pub const fn new(bytes: u32) -> Option<PageSize> {
        match bytes.is_power_of_two() && bytes >= 1 << 10 && bytes <= 1 << 16 {
            true => Some(PageSize(bytes)),
            false => None,
        }
    }

    pub const fn bytes(self) -> u64 {
        self.0 as u64
    }

    pub const fn as_u32(self) -> u32 {
        self.0
    }

    /// Bytes from the start of its page to `lsn`.
    #[inline]
    pub const fn offset_of(self, lsn: Lsn) -> u64 {
        lsn.as_u64() & (self.bytes() - 1)
    }

    /// Position of the first byte of the page that holds `lsn`.
    pub const fn start_of(self, lsn: Lsn) -> Lsn {
        Lsn::new(lsn.as_u64() & !(self.bytes() - 1))
    }
}
