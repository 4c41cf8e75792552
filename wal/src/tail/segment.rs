//! One segment on its way into the stores.

use bytes::Bytes;
use skytide_sql::Lsn;

use crate::store::partial::{Boundary, WalPiece};
use crate::store::{Content, Store, StoreError, layout, partial};
use crate::{SegmentName, SegmentSize};

use super::error::TailError;
use crate::walsender::Timestamp;

/// A segment's bytes so far, and how much of them each store has.
#[derive(Debug)]
pub(super) struct Growing {
    pub name: SegmentName,
    pub start: Lsn,
    pub wal: Vec<u8>,
    /// The last record's end in `wal` or before it.
    pub boundary: Boundary,
    /// When the last transaction committed whose commit is in `wal` or before it.
    pub last_commit: Option<Timestamp>,
    /// By store.
    pub cursors: Vec<Cursor>,
}

/// What a store's partial has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Cursor {
    /// Bytes of its pieces.
    pub at: u64,
    /// Bytes of WAL in them.
    pub sent: usize,
}

impl Growing {
    pub fn new(name: SegmentName, start: Lsn, boundary: Boundary, stores: usize) -> Growing {
        Growing {
            name,
            start,
            wal: Vec::new(),
            boundary,
            last_commit: None,
            cursors: vec![Cursor::default(); stores],
        }
    }

    /// Behind its last byte.
    pub fn end(&self) -> Lsn {
        Lsn::new(self.start.as_u64() + self.wal.len() as u64)
    }

    pub fn cursor(&self, place: usize) -> Cursor {
        self.cursors.get(place).copied().unwrap_or_default()
    }

    pub fn set_cursor(&mut self, place: usize, cursor: Cursor) {
        if let Some(slot) = self.cursors.get_mut(place) {
            *slot = cursor;
        }
    }

    /// What the store does not have yet, as a piece; `None` if it has all.
    pub fn piece_from(&self, sent: usize) -> Result<Option<Content>, StoreError> {
        let Some(rest) = self.wal.get(sent..).filter(|rest| !rest.is_empty()) else {
            return Ok(None);
        };
        let piece = WalPiece {
            start_lsn: Lsn::new(self.start.as_u64() + sent as u64),
            boundary: self.boundary,
            wal: Bytes::copy_from_slice(rest),
        };
        match piece.encode() {
            Ok(bytes) => Ok(Some(Content::new(bytes))),
            Err(error) => Err(StoreError::Unreachable {
                location: "this process".to_owned(),
                action: "compress a piece",
                source: Box::new(error),
            }),
        }
    }

    /// Finds out what the store's partial has. It has to be the beginning of ours: else another server wrote it.
    pub async fn meet(&self, store: &dyn Store, size: SegmentSize) -> Result<Cursor, TailError> {
        let Some(theirs) = partial::read(store, self.name, size).await? else {
            return Ok(Cursor::default());
        };
        let common = theirs.wal.len().min(self.wal.len());
        let (left, right) = (theirs.wal.get(..common), self.wal.get(..common));
        if left != right {
            let differs = |(a, b): (&u8, &u8)| a != b;
            let at = theirs.wal.iter().zip(&self.wal).position(differs).unwrap_or(0);
            return Err(TailError::Diverged {
                location: store.location().to_owned(),
                segment: self.name,
                lsn: Lsn::new(self.start.as_u64() + at as u64),
            });
        }
        if theirs.wal.len() > common {
            // Longer than ours: it is left for what comes to be compared with, see `Tail::begin`.
            return Err(StoreError::OutOfPlace {
                location: store.location().to_owned(),
                name: layout::partial_of(self.name),
                at: common as u64,
                bytes: theirs.wal.len() as u64,
            }
            .into());
        }
        Ok(Cursor {
            at: theirs.partial_bytes,
            sent: common,
        })
    }
}
