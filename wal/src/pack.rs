//! How a file of WAL is kept in a store: zstd frames that can be read one by one, and an index after them.
//!
//! The frames are ordinary ones, each of [`FRAME_BYTES`] of the file and with its checksum, and the index is a
//! frame that zstd skips: `zstd -d` gives the file back. Byte by byte in `docs/format/store.md`.

mod index;

use std::io::Cursor;

use bytes::Bytes;
use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe::CParameter;

pub use index::{Contents, Index, Kind, Span};

use crate::store::MAX_OBJECT_BYTES;

/// Bytes of the file in each frame but the last.
pub const FRAME_BYTES: usize = 1 << 20;

/// zstd's level when nobody says another.
pub const DEFAULT_LEVEL: i32 = 1;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PackError {
    #[error("its index is damaged: {0}")]
    Index(&'static str),
    #[error("its index has format version {found}, this program knows {known}")]
    Version { found: u16, known: u16 },
    #[error("frame {frame} cannot be decompressed")]
    Frame {
        frame: usize,
        #[source]
        source: std::io::Error,
    },
    #[error("frame {frame} has {found} bytes, not {expected}")]
    FrameLength {
        frame: usize,
        expected: usize,
        found: usize,
    },
    #[error("the checksum of its data is {found:08x}, not {expected:08x}")]
    Checksum { expected: u32, found: u32 },
    #[error("could not compress")]
    Compress(#[source] std::io::Error),
    #[error("{bytes} bytes are more than a packed file may have ({max})")]
    TooLarge { bytes: u64, max: u64 },
}

/// Compresses files, one after the other, with one working memory.
pub struct Packer(Compressor<'static>);

/// A file's frames, before its index is known: what is in the file is found out at the same time.
#[derive(Debug)]
pub struct Frames {
    bytes: Vec<u8>,
    lengths: Vec<u32>,
    file_bytes: u64,
}

impl Packer {
    pub fn new(level: i32) -> Result<Packer, PackError> {
        let mut compressor = Compressor::new(level).map_err(PackError::Compress)?;
        compressor
            .set_parameter(CParameter::ChecksumFlag(true))
            .map_err(PackError::Compress)?;
        Ok(Packer(compressor))
    }

    pub fn frames(&mut self, file: &[u8]) -> Result<Frames, PackError> {
        let file_bytes = file.len() as u64;
        if file_bytes > MAX_OBJECT_BYTES {
            return Err(PackError::TooLarge {
                bytes: file_bytes,
                max: MAX_OBJECT_BYTES,
            });
        }
        // WAL shrinks to a third or so; what does not gets a second allocation.
        let mut frames = Frames {
            bytes: Vec::with_capacity(file.len() / 2 + 1024),
            lengths: Vec::with_capacity(file.len().div_ceil(FRAME_BYTES)),
            file_bytes,
        };
        for part in file.chunks(FRAME_BYTES) {
            let start = frames.bytes.len();
            frames
                .bytes
                .resize(start + zstd::zstd_safe::compress_bound(part.len()), 0);
            let length = self
                .0
                .compress_to_buffer(part, frames.bytes.get_mut(start..).unwrap_or_default())
                .map_err(PackError::Compress)?;
            frames.bytes.truncate(start + length);
            frames
                .lengths
                .push(u32::try_from(length).expect("a frame of 1 MiB has no 4 GiB"));
        }
        Ok(frames)
    }
}

impl Frames {
    /// The object's bytes: the frames and the index.
    pub fn finish(mut self, contents: &Contents) -> Bytes {
        index::write(&mut self.bytes, contents, self.file_bytes, &self.lengths);
        self.bytes.into()
    }
}

/// A file packed on the spot, for small ones.
pub fn pack(file: &[u8], contents: &Contents) -> Result<Bytes, PackError> {
    Ok(Packer::new(DEFAULT_LEVEL)?.frames(file)?.finish(contents))
}

impl PackError {
    /// The frame that is damaged, if only one is.
    pub fn frame(&self) -> Option<usize> {
        match self {
            PackError::Frame { frame, .. } | PackError::FrameLength { frame, .. } => Some(*frame),
            _ => None,
        }
    }
}

/// Whether a store packed it: it has an index, sound or not.
pub fn is_packed(bytes: &[u8]) -> bool {
    index::is_there(bytes)
}

/// Checks everything that a packed file can check by itself, and returns the file.
pub fn unpack(packed: &[u8]) -> Result<(Contents, Vec<u8>), PackError> {
    let index = Index::parse(packed)?;
    if index.packed_bytes() != packed.len() as u64 {
        return Err(PackError::Index("its frames are not as long as it says"));
    }
    let file_bytes = usize::try_from(index.file_bytes()).expect("the index is within bounds");
    let mut file = Vec::with_capacity(file_bytes);
    let mut decoder = FrameDecoder::new()?;
    for frame in 0..index.frame_count() {
        let range = index.frame(frame).ok_or(PackError::Index("a frame is missing"))?;
        let start = usize::try_from(range.start).map_err(|_| PackError::Index("a frame is too far"))?;
        let end = usize::try_from(range.end).map_err(|_| PackError::Index("a frame is too far"))?;
        let bytes = packed
            .get(start..end)
            .ok_or(PackError::Index("a frame is missing"))?;
        decoder.decode(&index, frame, bytes, &mut file)?;
    }
    let contents = index.contents().clone();
    contents.check(&file)?;
    Ok((contents, file))
}

/// Decompresses single frames.
pub struct FrameDecoder(Decompressor<'static>);

impl FrameDecoder {
    pub fn new() -> Result<FrameDecoder, PackError> {
        let decompressor = Decompressor::new().map_err(|source| PackError::Frame { frame: 0, source })?;
        Ok(FrameDecoder(decompressor))
    }

    /// Appends the file's bytes of one frame to `file`.
    pub fn decode(
        &mut self,
        index: &Index,
        frame: usize,
        bytes: &[u8],
        file: &mut Vec<u8>,
    ) -> Result<(), PackError> {
        let expected = index.frame_file_bytes(frame);
        file.reserve(expected);
        let start = file.len() as u64;
        let mut end = Cursor::new(file);
        end.set_position(start);
        let found = self.0.decompress_to_buffer(bytes, &mut end);
        let found = found.map_err(|source| PackError::Frame { frame, source })?;
        match found == expected {
            true => Ok(()),
            false => Err(PackError::FrameLength {
                frame,
                expected,
                found,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TimelineId;
    use crate::walsender::Timestamp;
    use skytide_sql::Lsn;

    fn contents(file: &[u8], data: usize) -> Contents {
        Contents {
            kind: Kind::Segment,
            system_id: 7_123_456_789_012_345_678,
            timeline: TimelineId::new(3).unwrap(),
            segment_bytes: 16 << 20,
            data_bytes: data as u64,
            data_crc: crc32c::crc32c(&file[..data]),
            span: Some(Span {
                start_lsn: Lsn::new(0x300_0000),
                end_lsn: Lsn::new(0x300_1000),
                first_record: Some(Lsn::new(0x300_0028)),
                first_prev: Lsn::new(0x2FF_FFD0),
                last_record: Some(Lsn::new(0x300_0F00)),
                records: 17,
                first_commit: Some(Timestamp::from_micros(-5)),
                last_commit: None,
            }),
        }
    }

    fn file(bytes: usize) -> Vec<u8> {
        (0..bytes as u32)
            .map(|n| (n / 64).wrapping_mul(2_654_435_761) as u8)
            .collect()
    }

    #[test]
    fn a_file_comes_back_with_its_contents() {
        for bytes in [0, 1, FRAME_BYTES, FRAME_BYTES + 1, 3 * FRAME_BYTES] {
            let file = file(bytes);
            let contents = contents(&file, bytes / 2);
            let packed = pack(&file, &contents).unwrap();
            assert_eq!(unpack(&packed).unwrap(), (contents, file), "{bytes} bytes");
        }
    }

    #[test]
    fn a_frame_is_read_alone() {
        let file = file(3 * FRAME_BYTES - 5);
        let packed = pack(&file, &contents(&file, file.len())).unwrap();
        let index = Index::parse(&packed[packed.len() - index::MAX_TAIL.min(packed.len())..]).unwrap();
        assert_eq!(index.packed_bytes(), packed.len() as u64);
        let range = index.frame(1).unwrap();
        let mut part = Vec::new();
        let bytes = &packed[range.start as usize..range.end as usize];
        FrameDecoder::new()
            .unwrap()
            .decode(&index, 1, bytes, &mut part)
            .unwrap();
        assert!(part == file[FRAME_BYTES..2 * FRAME_BYTES]);
        assert!(index.frame(3).is_none());
    }

    #[test]
    fn any_zstd_program_gives_the_file_back() {
        let file = file(FRAME_BYTES + 77);
        let packed = pack(&file, &contents(&file, file.len())).unwrap();
        assert!(zstd::stream::decode_all(&packed[..]).unwrap() == file);
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let file = file(500);
        let packed = pack(&file, &contents(&file, 400)).unwrap();
        for bit in 0..packed.len() * 8 {
            let mut damaged = packed.to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let read = unpack(&damaged);
            // A flip may lie in a field of zstd's frame that says the same in two ways.
            assert!(read.is_err() || read.unwrap().1 == file, "bit {bit}");
        }
        for end in 0..packed.len() {
            assert!(unpack(&packed[..end]).is_err(), "cut at {end}");
        }
    }
}
