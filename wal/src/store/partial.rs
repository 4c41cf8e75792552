//! What a segment's partial holds: pieces of WAL, each with the record boundary that was known when it came.

use bytes::Bytes;
use skytide_sql::Lsn;

use super::{Store, StoreError, layout};
use crate::{SegmentName, SegmentSize};

const VERSION: u8 = 1;
const HEADER: usize = 32;
/// Shorter pieces are not worth compressing.
const COMPRESS_FROM: usize = 512;
const PLAIN: u8 = 0;
const ZSTD: u8 = 1;

/// A verified end of WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Boundary {
    /// Where the next record starts.
    pub lsn: Lsn,
    /// Where the last whole record starts, if one is known.
    pub last_record: Option<Lsn>,
}

/// Consecutive bytes of one segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalPiece {
    /// Of its first byte.
    pub start_lsn: Lsn,
    /// The last record boundary at or before its end. It may lie before its start.
    pub boundary: Boundary,
    pub wal: Bytes,
}

impl WalPiece {
    /// The bytes to append to the partial.
    pub fn encode(&self) -> std::io::Result<Bytes> {
        let packed = match self.wal.len() >= COMPRESS_FROM {
            true => Some(zstd::bulk::compress(&self.wal, crate::pack::DEFAULT_LEVEL)?),
            false => None,
        };
        let (codec, data) = match &packed {
            Some(packed) if packed.len() < self.wal.len() => (ZSTD, packed.as_slice()),
            _ => (PLAIN, &self.wal[..]),
        };
        let mut out = Vec::with_capacity(HEADER + data.len());
        out.extend([VERSION, codec, 0, 0]);
        let wal_bytes = u32::try_from(self.wal.len()).map_err(|_| std::io::ErrorKind::InvalidInput)?;
        out.extend(wal_bytes.to_le_bytes());
        let last_record = self.boundary.last_record.unwrap_or(Lsn::INVALID);
        for lsn in [self.start_lsn, self.boundary.lsn, last_record] {
            out.extend(lsn.as_u64().to_le_bytes());
        }
        out.extend(data);
        Ok(out.into())
    }

    /// Reads a piece of at most `max_bytes` of WAL. The store has checked that it is whole.
    pub fn decode(piece: &Bytes, max_bytes: u64) -> Result<WalPiece, &'static str> {
        let (header, data) = piece.split_first_chunk::<HEADER>().ok_or("it is too short")?;
        let [version, codec, _, _, rest @ ..] = header;
        let (wal_bytes, rest) = rest.split_first_chunk::<4>().ok_or("it is too short")?;
        if *version != VERSION {
            return Err("its version is unknown");
        }
        let wal_bytes = u32::from_le_bytes(*wal_bytes);
        if u64::from(wal_bytes) > max_bytes {
            return Err("it is longer than a segment");
        }
        let lsn = |n: usize| {
            let field = rest
                .chunks_exact(8)
                .nth(n)
                .and_then(|field| field.try_into().ok());
            field
                .map(|field| Lsn::new(u64::from_le_bytes(field)))
                .ok_or("it is too short")
        };
        let wal_bytes = usize::try_from(wal_bytes).map_err(|_| "it is too long")?;
        let wal = match *codec {
            PLAIN => piece.slice(HEADER..),
            ZSTD => {
                Bytes::from(zstd::bulk::decompress(data, wal_bytes).map_err(|_| "it cannot be decompressed")?)
            }
            _ => return Err("its compression is unknown"),
        };
        if wal.len() != wal_bytes {
            return Err("its length is not what it says");
        }
        Ok(WalPiece {
            start_lsn: lsn(0)?,
            boundary: Boundary {
                lsn: lsn(1)?,
                last_record: Some(lsn(2)?).filter(|lsn| lsn.is_valid()),
            },
            wal,
        })
    }
}

/// The beginning of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartialSegment {
    /// From the segment's first byte on.
    pub wal: Vec<u8>,
    /// As its writer knew it last.
    pub boundary: Boundary,
    /// Bytes of the partial's pieces: where the next one is appended.
    pub partial_bytes: u64,
}

/// What a store has of a segment that is still written; `None` if nothing.
pub async fn read(
    store: &dyn Store,
    segment: SegmentName,
    size: SegmentSize,
) -> Result<Option<PartialSegment>, StoreError> {
    let name = layout::partial_of(segment);
    let Some(pieces) = store.read_partial(&name, 0).await? else {
        return Ok(None);
    };
    let damaged = |what: &str| StoreError::Damaged {
        location: store.location().to_owned(),
        name: name.to_string(),
        what: what.to_owned(),
    };
    let start = segment
        .start(size)
        .ok_or_else(|| damaged("its name is not of this segment size"))?;
    let mut read = PartialSegment {
        wal: Vec::new(),
        boundary: Boundary {
            lsn: start,
            last_record: None,
        },
        partial_bytes: 0,
    };
    for piece in &pieces {
        let decoded = WalPiece::decode(piece, size.bytes()).map_err(damaged)?;
        let expected = Lsn::new(start.as_u64() + read.wal.len() as u64);
        if decoded.start_lsn != expected {
            return Err(damaged(&format!(
                "it has WAL from {} where {expected} follows",
                decoded.start_lsn
            )));
        }
        read.wal.extend_from_slice(&decoded.wal);
        read.boundary = decoded.boundary;
        read.partial_bytes += piece.len() as u64;
    }
    match read.wal.len() as u64 <= size.bytes() {
        true => Ok(Some(read)),
        false => Err(damaged("it is longer than a segment")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Content, DirStore};

    fn piece(start: u64, wal: &[u8]) -> WalPiece {
        WalPiece {
            start_lsn: Lsn::new(start),
            boundary: Boundary {
                lsn: Lsn::new(start + wal.len() as u64),
                last_record: Some(Lsn::new(start)),
            },
            wal: Bytes::copy_from_slice(wal),
        }
    }

    #[test]
    fn pieces_come_back() {
        for wal in [
            &b"x"[..],
            &[7; 5000],
            &(0..=255).cycle().take(600).collect::<Vec<u8>>(),
        ] {
            let piece = piece(0x100_0000, wal);
            let encoded = piece.encode().unwrap();
            assert_eq!(WalPiece::decode(&encoded, 1 << 20), Ok(piece));
            assert!(WalPiece::decode(&encoded, wal.len() as u64 - 1).is_err());
            for end in 0..HEADER.min(encoded.len()) {
                assert!(WalPiece::decode(&encoded.slice(..end), 1 << 20).is_err());
            }
        }
    }

    #[tokio::test]
    async fn a_partial_is_read_in_order_and_without_holes() {
        let dir = tempfile::tempdir().unwrap();
        let store = DirStore::create(dir.path()).unwrap();
        let size = SegmentSize::new(1 << 20).unwrap();
        let segment: SegmentName = "000000010000000000000001".parse().unwrap();
        assert_eq!(read(&store, segment, size).await.unwrap(), None);
        let name = layout::partial_of(segment);
        let mut at = 0;
        for piece in [piece(0x10_0000, b"one"), piece(0x10_0003, &[5; 4000])] {
            at = store
                .append(&name, at, Content::new(piece.encode().unwrap()))
                .await
                .unwrap();
        }
        let whole = read(&store, segment, size).await.unwrap().unwrap();
        assert_eq!((whole.wal.len(), whole.partial_bytes), (4003, at));
        assert_eq!(whole.boundary.lsn, Lsn::new(0x10_0000 + 4003));
        let hole = piece(0x10_2000, b"x").encode().unwrap();
        store.append(&name, at, Content::new(hole)).await.unwrap();
        assert!(matches!(
            read(&store, segment, size).await,
            Err(StoreError::Damaged { .. })
        ));
    }
}
