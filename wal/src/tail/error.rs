//! What keeps WAL from growing in the stores.

use skytide_sql::Lsn;
pub(crate) use skytide_sql::causes::chain as words;
use skytide_sql::fault::Fault;

use crate::archive::ArchiveError;
use crate::store::StoreError;
use crate::store::identity::IdentityError;
use crate::{SegmentName, TimelineId, WalError};

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TailError {
    /// None of the stores can be written to now.
    #[error("no store takes WAL")]
    NoStore(#[source] Box<TailError>),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error("the WAL is damaged where it comes from; the stores have it up to {end}")]
    Damaged {
        end: Lsn,
        #[source]
        source: WalError,
    },
    #[error("what store {location} has of {segment} is damaged")]
    DamagedCopy {
        location: String,
        segment: SegmentName,
        #[source]
        source: WalError,
    },
    #[error("WAL came from {found} where {expected} follows")]
    OutOfPlace { expected: Lsn, found: Lsn },
    #[error(
        "store {location} has another {segment}; the first difference is at {lsn}: two servers write this timeline"
    )]
    Diverged {
        location: String,
        segment: SegmentName,
        lsn: Lsn,
    },
    #[error("no file has a name for the WAL at {0}")]
    NoName(Lsn),
    #[error(
        "store {location} has timeline {timeline}, which left this one at {lsn}: the server was replaced by another one"
    )]
    Replaced {
        location: String,
        timeline: TimelineId,
        lsn: Lsn,
    },
    #[error("store {location} takes too long, and is not waited for")]
    Slow { location: String },
    #[error("work on {0} was given up")]
    GivenUp(SegmentName),
}

impl TailError {
    /// Trouble with one store. Another one can make up for it, and it may pass; a person may have to help.
    pub fn is_store_trouble(&self) -> bool {
        match self {
            TailError::NoStore(_)
            | TailError::Store(_)
            | TailError::Identity(IdentityError::Store(_))
            | TailError::DamagedCopy { .. }
            | TailError::Slow { .. }
            | TailError::GivenUp(_) => true,
            TailError::Archive(error) => error.is_store_trouble(),
            _ => false,
        }
    }

    pub fn fault(&self) -> Fault {
        match self {
            error if error.is_store_trouble() => Fault::Retry,
            TailError::Damaged { .. } | TailError::Archive(ArchiveError::Damaged { .. }) => Fault::Corrupt,
            TailError::OutOfPlace { .. } => Fault::Bug,
            _ => Fault::Operator,
        }
    }
}
