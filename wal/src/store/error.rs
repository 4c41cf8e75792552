//! What can go wrong with a store.

use std::error::Error as StdError;

use super::name::{ObjectName, PartialName};
use crate::durable::FileError;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// A file or directory of a local store.
    #[error("store {location} failed")]
    File {
        location: String,
        #[source]
        source: FileError,
    },
    /// The store could not be asked, or did not answer: trying again may help.
    #[error("store {location} cannot be reached to {action}")]
    Unreachable {
        location: String,
        action: &'static str,
        #[source]
        source: Box<dyn StdError + Send + Sync>,
    },
    /// The store answered, and will not do it: a person has to change something.
    #[error("store {location} refused to {action}: {reason}")]
    Refused {
        location: String,
        action: &'static str,
        reason: String,
    },
    /// Bytes in the store are not what was put there.
    #[error("{name} in store {location} is damaged: {what}")]
    Damaged {
        location: String,
        name: String,
        what: String,
    },
    #[error("the range {start}..{end} does not lie in {name}, which has {bytes} bytes")]
    Range {
        name: ObjectName,
        start: u64,
        end: u64,
        bytes: u64,
    },
    /// The piece does not follow what is there; `bytes` is where the next one has to start.
    #[error("partial {name} in store {location} has {bytes} bytes: a piece cannot be put at {at}")]
    OutOfPlace {
        location: String,
        name: PartialName,
        at: u64,
        bytes: u64,
    },
    /// Another process appends to this partial.
    #[error("partial {name} in store {location} is being written by another process")]
    Busy { location: String, name: PartialName },
    #[error("{bytes} bytes are more than a store takes in one piece ({max})")]
    TooLarge { bytes: u64, max: u64 },
}

impl StoreError {
    /// Whether the same call may succeed later without anybody's help.
    pub fn is_transient(&self) -> bool {
        matches!(self, StoreError::Unreachable { .. } | StoreError::Busy { .. })
    }

    /// Whether the store has no room left.
    pub fn is_full(&self) -> bool {
        matches!(self, StoreError::File { source, .. } if source.is_full())
    }
}
