//! A piece of a partial with its header of 20 bytes, little-endian.
//!
//! | at | size | |
//! |---|---|---|
//! | 0 | 4 | magic `SkPc` |
//! | 4 | 4 | bytes of the piece; 0: a mark, which says that all before it was durable |
//! | 8 | 8 | bytes of all pieces before it |
//! | 16 | 4 | CRC-32C of the 16 bytes before, then of the piece |

use super::Content;

pub const MAGIC: [u8; 4] = *b"SkPc";
pub const HEADER: usize = 20;

/// A whole piece in a file's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Bytes of all pieces before it.
    pub at: u64,
    pub length: usize,
    /// Where its bytes begin in the file.
    pub offset: usize,
}

impl Piece {
    pub fn end(&self) -> usize {
        self.offset + self.length
    }

    /// Says that the pieces before it were durable; it has no bytes.
    pub fn is_mark(&self) -> bool {
        self.length == 0
    }

    /// The whole piece whose header is at `offset`, if there is one.
    pub fn parse(file: &[u8], offset: usize) -> Option<Piece> {
        let (header, rest) = file.get(offset..)?.split_first_chunk::<HEADER>()?;
        let (magic, header) = header.split_first_chunk::<4>()?;
        let (length, header) = header.split_first_chunk::<4>()?;
        let (at, crc) = header.split_first_chunk::<8>()?;
        let crc = u32::from_le_bytes(crc.try_into().ok()?);
        let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
        let data = rest.get(..length)?;
        let sound = *magic == MAGIC
            && crc32c::crc32c_append(crc32c::crc32c(file.get(offset..offset + HEADER - 4)?), data) == crc;
        sound.then_some(Piece {
            at: u64::from_le_bytes(*at),
            length,
            offset: offset + HEADER,
        })
    }
}

/// What stands behind the last piece.
pub fn mark(bytes: u64) -> [u8; HEADER] {
    header(bytes, &Content::new(&b""[..]))
}

pub fn header(at: u64, piece: &Content) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..4].copy_from_slice(&MAGIC);
    let length = u32::try_from(piece.len()).expect("a piece's length was checked");
    header[4..8].copy_from_slice(&length.to_le_bytes());
    header[8..16].copy_from_slice(&at.to_le_bytes());
    let crc = crc32c::crc32c_combine(crc32c::crc32c(&header[..16]), piece.crc(), piece.bytes().len());
    header[16..].copy_from_slice(&crc.to_le_bytes());
    header
}

/// The piece behind its header, in one buffer.
pub fn framed(at: u64, piece: &Content) -> Vec<u8> {
    let mut framed = Vec::with_capacity(HEADER + piece.bytes().len());
    framed.extend_from_slice(&header(at, piece));
    framed.extend_from_slice(piece.bytes());
    framed
}
