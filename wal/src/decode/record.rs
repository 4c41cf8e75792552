//! A record as it is handed out.

use skytide_sql::{Lsn, Xid32};

use crate::commit::TransactionEnd;
use crate::format::cursor::Cursor;
use crate::format::record::{BlockRef, Image, Layout, RecordHeader};
use crate::format::rmgr::Rmgr;
use crate::format::version::Format;

/// XLOG opcodes the reader itself has to know (`catalog/pg_control.h`).
pub(super) const SWITCH: u8 = 0x40;
pub(super) const OVERWRITE_CONTRECORD: u8 = 0xD0;

/// A whole record, checked.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// Its first byte.
    pub lsn: Lsn,
    /// Where the next record may begin; after a switch the end of the segment.
    pub end_lsn: Lsn,
    pub header: RecordHeader,
    /// All of it, page headers taken out.
    pub bytes: &'a [u8],
    pub(super) layout: &'a Layout,
    pub(super) format: &'static Format,
}

impl<'a> Record<'a> {
    pub fn rmgr(&self) -> Rmgr {
        self.header.rmgr
    }

    pub fn xid(&self) -> Xid32 {
        self.header.xid
    }

    /// The version whose server wrote it.
    pub fn format(&self) -> &'static Format {
        self.format
    }

    /// What it is called, as `pg_waldump` says; `None` for an extension's records.
    pub fn operation(&self) -> Option<&'static str> {
        self.header.rmgr.operation(self.header.info, self.format.major)
    }

    /// The pages it is about.
    pub fn blocks(&self) -> &'a [BlockRef] {
        &self.layout.blocks
    }

    /// The resource manager's own data.
    pub fn main_data(&self) -> &'a [u8] {
        self.layout.main.of(self.bytes)
    }

    /// What it says about a page beside the image.
    pub fn block_data(&self, block: &BlockRef) -> &'a [u8] {
        block.data.of(self.bytes)
    }

    /// A page image as stored: without its hole, maybe compressed.
    pub fn image_data(&self, image: &Image) -> &'a [u8] {
        image.bytes.of(self.bytes)
    }

    /// Bytes of it that are page images.
    pub fn image_bytes(&self) -> u32 {
        self.layout.image_bytes()
    }

    /// Where the transaction was replicated from.
    pub fn origin(&self) -> Option<u16> {
        self.layout.origin
    }

    pub fn top_xid(&self) -> Option<Xid32> {
        self.layout.top_xid
    }

    /// The server went on in the next segment after it.
    pub fn is_switch(&self) -> bool {
        self.header.rmgr == Rmgr::XLOG && self.header.opcode() == SWITCH
    }

    /// If it takes the place of a record that was given up after a crash: where that one began.
    pub fn replaced_record(&self) -> Option<Lsn> {
        let replaces = self.header.rmgr == Rmgr::XLOG && self.header.opcode() == OVERWRITE_CONTRECORD;
        let lsn = replaces.then(|| Cursor::new(self.main_data()).u64().ok())??;
        Some(Lsn::new(lsn))
    }

    /// If it ends a transaction: how and when.
    pub fn transaction_end(&self) -> Option<TransactionEnd> {
        TransactionEnd::of(self)
    }
}
