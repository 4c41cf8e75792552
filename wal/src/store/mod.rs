//! Where WAL and backups are kept: a directory, another host's daemon, or object storage.
//!
//! A store keeps two kinds of things. *Objects* are put whole and never change. *Partials* grow by whole
//! pieces, and are what has arrived of a segment that is still being written. What lies under which name, and
//! every byte of it, is in `docs/format/store.md`.

mod dir;
mod error;
pub mod identity;
mod late;
pub mod layout;
mod name;
pub mod partial;
pub mod peer;
mod piece;
pub mod s3;
#[cfg(any(test, feature = "test-suite"))]
pub mod suite;

use std::fmt;
use std::ops::Range;

use bytes::Bytes;
use futures_util::future::BoxFuture;

pub use dir::DirStore;
pub use error::StoreError;
pub use late::LateStore;
pub use name::{NameError, ObjectName, PartialName, Prefix};
pub use peer::PeerStore;
pub use s3::S3Store;

/// The longest object or piece; what is longer is cut by its writer. A WAL segment is never longer.
pub const MAX_OBJECT_BYTES: u64 = 1 << 30;

pub type StoreFuture<'a, T> = BoxFuture<'a, Result<T, StoreError>>;

/// Bytes on their way into a store, with the checksum they had when they were checked for the last time.
/// A store compares it with what arrived, so that nothing damaged on the way is kept.
#[derive(Clone, PartialEq, Eq)]
pub struct Content {
    bytes: Bytes,
    crc: u32,
}

impl Content {
    pub fn new(bytes: impl Into<Bytes>) -> Content {
        let bytes = bytes.into();
        let crc = crc32c::crc32c(&bytes);
        Content { bytes, crc }
    }

    /// Bytes that came with their checksum; `None` if it is not theirs.
    pub fn checked(bytes: Bytes, crc: u32) -> Option<Content> {
        (crc32c::crc32c(&bytes) == crc).then_some(Content { bytes, crc })
    }

    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// CRC-32C of the bytes.
    pub fn crc(&self) -> u32 {
        self.crc
    }

    pub fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    fn check_size(&self) -> Result<(), StoreError> {
        match self.len() <= MAX_OBJECT_BYTES {
            true => Ok(()),
            false => Err(StoreError::TooLarge {
                bytes: self.len(),
                max: MAX_OBJECT_BYTES,
            }),
        }
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Content({} bytes, crc {:08x})", self.bytes.len(), self.crc)
    }
}

/// What became of an object that was put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Put {
    Stored,
    /// The name was taken, by what was left alone and is durable. Whether it is the same is the caller's
    /// question: only it knows what "the same" means.
    Exists,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub name: ObjectName,
    pub bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedPartial {
    pub name: PartialName,
    /// Bytes that its pieces have together; of a damaged one, which [`Store::read_partial`] refuses, those before
    /// the damage.
    pub bytes: u64,
}

/// The contract that every store keeps; [`suite`] tests it.
///
/// - **Durable.** When `put`, `append`, `delete` or `delete_partial` returns `Ok`, the effect survives the loss
///   of power at that moment.
/// - **All or nothing.** An object or a piece is there with all its bytes, or not there. A writer that dies
///   leaves nothing under the name, and nothing that `list` shows.
/// - **Never replaced.** An object's bytes do not change. Of several writers of one name exactly one is told
///   `Stored`; it is then its bytes that are there.
/// - **Absence is an answer, trouble an error.** `None` is given only by a store that was asked and does not
///   have it. A store that cannot be asked gives an error: recovery would otherwise end early.
/// - **Cancelled calls** may have had their effect or not, as whole.
/// - Objects and partials have separate names.
///
/// Calls may run at the same time, from several tasks and several processes.
pub trait Store: Send + Sync + fmt::Debug {
    /// Where it is, for people: `/srv/wal`, `peer://db2:5480`, `s3://bucket/wal`.
    fn location(&self) -> &str;

    /// Keeps a new object of at most [`MAX_OBJECT_BYTES`]. If the name is taken, nothing changes.
    fn put<'a>(&'a self, name: &'a ObjectName, content: Content) -> StoreFuture<'a, Put>;

    /// All bytes of an object; `None` if there is none of this name.
    fn get<'a>(&'a self, name: &'a ObjectName) -> StoreFuture<'a, Option<Bytes>>;

    /// The bytes of a range, which must lie in the object ([`StoreError::Range`]); `None` if there is no such
    /// object.
    fn get_range<'a>(&'a self, name: &'a ObjectName, range: Range<u64>) -> StoreFuture<'a, Option<Bytes>>;

    /// The object's length in bytes; `None` if there is none of this name.
    fn head<'a>(&'a self, name: &'a ObjectName) -> StoreFuture<'a, Option<u64>>;

    /// The objects whose names begin so, by name. What is put or deleted meanwhile may be there or not.
    fn list<'a>(&'a self, prefix: &'a Prefix) -> StoreFuture<'a, Vec<Listed>>;

    /// Removes an object. One that is not there is no error.
    fn delete<'a>(&'a self, name: &'a ObjectName) -> StoreFuture<'a, ()>;

    /// Appends a piece to a partial whose pieces have `at` bytes so far (0: the partial is new), and returns
    /// how many they have now. The last piece put again, at its place and with its bytes, is a success: so an
    /// append whose answer was lost is repeated. Any other place is
    /// [`StoreError::OutOfPlace`], another appender [`StoreError::Busy`] or `OutOfPlace`. A piece has at least
    /// one byte.
    fn append<'a>(&'a self, name: &'a PartialName, at: u64, piece: Content) -> StoreFuture<'a, u64>;

    /// The pieces of a partial from byte `from` on, which must be where a piece begins or the last one ends;
    /// `None` if there is no such partial. What is given is durable.
    fn read_partial<'a>(&'a self, name: &'a PartialName, from: u64) -> StoreFuture<'a, Option<Vec<Bytes>>>;

    /// The partials whose names begin so, by name.
    fn partials<'a>(&'a self, prefix: &'a Prefix) -> StoreFuture<'a, Vec<ListedPartial>>;

    /// Removes a partial with all its pieces. One that is not there is no error.
    fn delete_partial<'a>(&'a self, name: &'a PartialName) -> StoreFuture<'a, ()>;
}
