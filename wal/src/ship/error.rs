//! What keeps WAL from being copied out of a data directory.

use std::path::PathBuf;

use skytide_sql::Lsn;
use skytide_sql::conn::ConnectError;
use skytide_sql::fault::Fault;

use crate::control::ControlError;
use crate::durable::FileError;
use crate::tail::TailError;
use crate::timeline::HistoryError;
use crate::verify::Proof;
use crate::{SegmentName, TimelineId, WalError};

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ShipError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("{} cannot be read", path.display())]
    Control {
        path: PathBuf,
        #[source]
        source: ControlError,
    },
    #[error("{} cannot be read", path.display())]
    History {
        path: PathBuf,
        #[source]
        source: HistoryError,
    },
    #[error(transparent)]
    Tail(#[from] TailError),
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("ask the server how far its WAL is")]
    Sql(#[from] tokio_postgres::Error),
    #[error("the server has system identifier {server}, the data directory {directory}")]
    OtherServer { server: u64, directory: u64 },
    #[error("the server's answer makes no sense: {0}")]
    Answer(&'static str),
    /// A standby that is not receiving does not say on which timeline it is.
    #[error("the server is a standby that receives nothing")]
    NotReceiving,
    #[error("the WAL from {from} on timeline {timeline}, where the stores go on, is no longer in pg_wal")]
    Removed { timeline: TimelineId, from: Lsn },
    #[error("the postmaster lives (process {pid})")]
    Alive { pid: i32 },
    #[error(
        "the WAL ends at {end}, before {what} at {needed}: it is damaged, and the server cannot start from it"
    )]
    EndsEarly {
        end: Lsn,
        needed: Lsn,
        what: &'static str,
        #[source]
        stop: Option<WalError>,
    },
    #[error("the WAL is damaged at {}: {proof}; it was copied up to {end}", stop.lsn)]
    Damaged {
        end: Lsn,
        proof: Proof,
        #[source]
        stop: WalError,
    },
    #[error("the stores have WAL up to {end}, and these bytes begin at {from}")]
    Gap { end: Lsn, from: Lsn },
    #[error("the bytes from {offset} on are not all in {segment}")]
    OutOfSegment { segment: SegmentName, offset: u32 },
    #[error("the stores are no cluster's yet, and these bytes do not begin a segment")]
    Nobodys,
    #[error("the work was given up")]
    GivenUp,
    #[error("store {location} does not give back what it was given, at {lsn}")]
    NotKept { location: String, lsn: Lsn },
}

impl ShipError {
    pub fn fault(&self) -> Fault {
        match self {
            ShipError::Tail(error) => error.fault(),
            ShipError::Connect(error) => error.fault(),
            ShipError::Sql(error) => skytide_sql::fault::fault_of(error),
            ShipError::NotReceiving => Fault::Retry,
            ShipError::Control { .. } | ShipError::EndsEarly { .. } | ShipError::Damaged { .. } => {
                Fault::Corrupt
            }
            _ => Fault::Operator,
        }
    }
}
