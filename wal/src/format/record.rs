//! Records: the header, block references, and where their data lies (`access/xlogrecord.h`; the checks are those of
//! `DecodeXLogRecord` in `access/transam/xlogreader.c`).

use skytide_sql::{Lsn, Oid, Xid32};

use super::cursor::{Cursor, TooShort};
use super::rmgr::Rmgr;
use super::version::Format;

/// Bytes of a record's header.
pub const HEADER: usize = 24;
/// Bytes of a relation file's name (`RelFileLocator`).
const RELATION_FILE: usize = 12;
/// Where in the header its checksum lies.
pub const CRC_OFFSET: usize = 20;
/// The largest record: the reader of every major refuses one that takes a gigabyte of memory.
pub const MAX_LENGTH: u32 = (1 << 30) - 1;

/// Highest id of a block reference.
const MAX_BLOCK_ID: u8 = 32;
const ID_TOP_XID: u8 = 252;
const ID_ORIGIN: u8 = 253;
const ID_DATA_LONG: u8 = 254;
const ID_DATA_SHORT: u8 = 255;

const FORK_MASK: u8 = 0x0F;
const HAS_IMAGE: u8 = 0x10;
const HAS_DATA: u8 = 0x20;
const WILL_INIT: u8 = 0x40;
const SAME_RELATION: u8 = 0x80;

/// The fixed part of a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RecordHeader {
    /// Bytes of the whole record, this header included.
    pub length: u32,
    /// The transaction, or 0.
    pub xid: Xid32,
    /// Start of the record before this one.
    pub previous: Lsn,
    pub info: u8,
    pub rmgr: Rmgr,
    pub crc: u32,
}

impl RecordHeader {
    #[inline]
    pub fn parse(cursor: &mut Cursor<'_>) -> Result<RecordHeader, TooShort> {
        // One look at the length for all of them.
        let bytes: [u8; HEADER] = cursor.array()?;
        let mut cursor = Cursor::new(&bytes);
        let length = cursor.u32()?;
        let xid = Xid32::new(cursor.u32()?);
        let previous = Lsn::new(cursor.u64()?);
        let info = cursor.u8()?;
        let rmgr = Rmgr::new(cursor.u8()?);
        cursor.take(2)?;
        Ok(RecordHeader {
            length,
            xid,
            previous,
            info,
            rmgr,
            crc: cursor.u32()?,
        })
    }

    /// The resource manager's own bits of `info`.
    pub const fn opcode(&self) -> u8 {
        self.info & 0xF0
    }
}

/// A relation's file, as WAL names it. Not the relation's OID.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RelationFile {
    pub tablespace: Oid,
    /// 0 for relations shared by all databases.
    pub database: Oid,
    pub number: u32,
}

impl RelationFile {
    #[inline]
    pub fn parse(cursor: &mut Cursor<'_>) -> Result<RelationFile, TooShort> {
        let bytes: [u8; RELATION_FILE] = cursor.array()?;
        let mut cursor = Cursor::new(&bytes);
        Ok(RelationFile {
            tablespace: Oid::new(cursor.u32()?),
            database: Oid::new(cursor.u32()?),
            number: cursor.u32()?,
        })
    }
}

impl std::fmt::Display for RelationFile {
    /// As `pg_waldump` prints it: tablespace/database/file.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}/{}", self.tablespace, self.database, self.number)
    }
}

/// Which of a relation's files.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Fork(u8);

impl Fork {
    pub const MAIN: Fork = Fork(0);
    pub const FREE_SPACE_MAP: Fork = Fork(1);
    pub const VISIBILITY_MAP: Fork = Fork(2);
    pub const INIT: Fork = Fork(3);

    pub const fn as_u8(self) -> u8 {
        self.0
    }

    pub const fn name(self) -> &'static str {
        match self.0 {
            0 => "main",
            1 => "fsm",
            2 => "vm",
            3 => "init",
            _ => "unknown",
        }
    }
}

/// A run of bytes inside a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Span {
    start: u32,
    length: u32,
}

impl Span {
    pub const fn len(self) -> u32 {
        self.length
    }

    pub const fn is_empty(self) -> bool {
        self.length == 0
    }

    /// The bytes, out of the record this span was found in.
    pub fn of(self, record: &[u8]) -> &[u8] {
        let start = self.start as usize;
        record
            .get(start..start.saturating_add(self.length as usize))
            .unwrap_or_default()
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ImageCompression {
    Pglz,
    Lz4,
    Zstd,
}

/// A full-page image. The hole, which is all zeros, is not stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Image {
    pub bytes: Span,
    pub hole_offset: u16,
    pub hole_length: u16,
    /// Redo restores the page from this image.
    pub apply: bool,
    pub compression: Option<ImageCompression>,
}

/// A page that a record is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlockRef {
    pub id: u8,
    pub fork: Fork,
    pub relation: RelationFile,
    pub block: u32,
    /// Redo makes the page anew.
    pub will_init: bool,
    pub image: Option<Image>,
    pub data: Span,
}

/// A record with a right checksum is put together in a way no server writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadLayout {
    #[error("its headers run past its end")]
    TooShort,
    #[error("block reference {0} is out of order")]
    BlockOrder(u8),
    #[error("block reference {0} announces data and has none, or has some unannounced")]
    BlockData(u8),
    #[error("block reference {0} continues a relation that none before it names")]
    NoRelation(u8),
    #[error("block reference {0} has an impossible page image")]
    Image(u8),
    #[error("fragment id {0} does not exist in this version")]
    Fragment(u8),
    #[error("its parts announce another length than it has")]
    Length,
}

impl From<TooShort> for BadLayout {
    fn from(_: TooShort) -> Self {
        BadLayout::TooShort
    }
}

/// Where a record's parts lie. Reused from record to record, so that reading allocates nothing.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Layout {
    pub blocks: Vec<BlockRef>,
    /// The resource manager's own data.
    pub main: Span,
    /// Where the transaction was replicated from (`pg_replication_origin.roident`).
    pub origin: Option<u16>,
    /// The top transaction, said once for each subtransaction with `wal_level = logical`.
    pub top_xid: Option<Xid32>,
}

impl Layout {
    /// Finds the parts of a whole record. `block_size` is the data pages' (`BLCKSZ`).
    pub fn read(&mut self, record: &[u8], format: &Format, block_size: u32) -> Result<(), BadLayout> {
        self.blocks.clear();
        self.main = Span::default();
        self.origin = None;
        self.top_xid = None;
        let mut cursor = Cursor::new(record);
        cursor.take(HEADER)?;
        // Bytes of data announced so far. A sum of at most 33 × 2 u16 and one u32 per 2 bytes of header: no overflow.
        let mut announced: u64 = 0;
        let mut main = 0;
        while cursor.remaining() as u64 > announced {
            match cursor.u8()? {
                ID_DATA_SHORT => {
                    main = u32::from(cursor.u8()?);
                    announced += u64::from(main);
                    break;
                }
                ID_DATA_LONG => {
                    main = cursor.u32()?;
                    announced += u64::from(main);
                    break;
                }
                ID_ORIGIN => self.origin = Some(cursor.u16()?),
                ID_TOP_XID if format.top_xid => self.top_xid = Some(Xid32::new(cursor.u32()?)),
                id @ 0..=MAX_BLOCK_ID => {
                    let last = self.blocks.last();
                    if last.is_some_and(|last| last.id >= id) {
                        return Err(BadLayout::BlockOrder(id));
                    }
                    let relation = last.map(|last| last.relation);
                    let block = block_header(&mut cursor, id, relation, format, block_size)?;
                    let image = block.image.map_or(0, |image| image.bytes.length);
                    announced += u64::from(image) + u64::from(block.data.length);
                    self.blocks.push(block);
                }
                id => return Err(BadLayout::Fragment(id)),
            }
        }
        if cursor.remaining() as u64 != announced {
            return Err(BadLayout::Length);
        }
        // Records are shorter than 4 GiB, so what is announced, which is what remains, fits.
        let mut at = (record.len() - cursor.remaining()) as u32;
        let mut place = |span: &mut Span| {
            span.start = at;
            at += span.length;
        };
        for block in &mut self.blocks {
            if let Some(image) = &mut block.image {
                place(&mut image.bytes);
            }
            place(&mut block.data);
        }
        self.main.length = main;
        place(&mut self.main);
        Ok(())
    }

    /// Bytes of the record that are page images.
    pub fn image_bytes(&self) -> u32 {
        let images = self.blocks.iter().filter_map(|block| block.image);
        images.map(|image| image.bytes.length).sum()
    }
}

#[inline]
fn block_header(
    cursor: &mut Cursor<'_>,
    id: u8,
    before: Option<RelationFile>,
    format: &Format,
    block_size: u32,
) -> Result<BlockRef, BadLayout> {
    let flags = cursor.u8()?;
    let data = u32::from(cursor.u16()?);
    if (flags & HAS_DATA != 0) != (data > 0) {
        return Err(BadLayout::BlockData(id));
    }
    let image = match flags & HAS_IMAGE != 0 {
        true => Some(image_header(cursor, format, block_size)?.ok_or(BadLayout::Image(id))?),
        false => None,
    };
    let relation = match flags & SAME_RELATION != 0 {
        true => before.ok_or(BadLayout::NoRelation(id))?,
        false => RelationFile::parse(cursor)?,
    };
    Ok(BlockRef {
        id,
        fork: Fork(flags & FORK_MASK),
        relation,
        block: cursor.u32()?,
        will_init: flags & WILL_INIT != 0,
        image,
        data: Span {
            start: 0,
            length: data,
        },
    })
}

/// `None` if its numbers contradict each other.
fn image_header(
    cursor: &mut Cursor<'_>,
    format: &Format,
    block_size: u32,
) -> Result<Option<Image>, TooShort> {
    let length = cursor.u16()?;
    let hole_offset = cursor.u16()?;
    let info = cursor.u8()?;
    let bits = &format.image;
    let has_hole = info & bits.has_hole != 0;
    let compressed = info & bits.compressed() != 0;
    let bytes = u32::from(length);
    let hole_length = match (compressed, has_hole) {
        (true, true) => u32::from(cursor.u16()?),
        (true, false) => 0,
        (false, _) => match block_size.checked_sub(bytes) {
            Some(hole) => hole,
            None => return Ok(None),
        },
    };
    let possible = match has_hole {
        true => hole_offset > 0 && hole_length > 0 && bytes < block_size,
        false => hole_offset == 0 && hole_length == 0,
    };
    let Ok(hole_length) = u16::try_from(hole_length) else {
        return Ok(None);
    };
    if !possible || (compressed && bytes >= block_size) {
        return Ok(None);
    }
    let compression = match info & bits.compressed() {
        0 => None,
        method if method == bits.pglz => Some(ImageCompression::Pglz),
        method if method == bits.lz4 => Some(ImageCompression::Lz4),
        method if method == bits.zstd => Some(ImageCompression::Zstd),
        _ => return Ok(None),
    };
    Ok(Some(Image {
        bytes: Span {
            start: 0,
            length: bytes,
        },
        hole_offset,
        hole_length,
        apply: info & bits.apply != 0,
        compression,
    }))
}
