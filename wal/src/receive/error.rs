//! What ends or holds up receiving.

use skytide_sql::fault::Fault;
use skytide_sql::{Lsn, SlotName};

use crate::TimelineId;
use crate::tail::TailError;
use crate::timeline::HistoryError;
use crate::walsender::WalsenderError;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReceiveError {
    #[error("replication connection")]
    Walsender(#[from] WalsenderError),
    #[error(transparent)]
    Tail(#[from] TailError),
    #[error("the server's history of timeline {timeline} cannot be read")]
    History {
        timeline: TimelineId,
        #[source]
        source: HistoryError,
    },
    #[error("the server says its segments have {0:?}, which is no segment size")]
    SegmentSize(String),
    /// What the stores need next is gone.
    #[error("the server no longer has the WAL from {from} on timeline {timeline}, where the stores go on")]
    Removed { timeline: TimelineId, from: Lsn },
    #[error("the stores have WAL up to {end}, the server only up to {flush}")]
    Ahead { end: Lsn, flush: Lsn },
    #[error("the server has been silent for {seconds} seconds")]
    Silent { seconds: u64 },
    /// The primary's disk comes first.
    #[error("slot {slot} holds {held} bytes of WAL on the server, more than the limit of {limit}")]
    SlotLimit { slot: SlotName, held: u64, limit: u64 },
    /// Streaming begins anew at once: something is known now that was not at its beginning.
    #[error("receiving begins anew")]
    Again,
}

impl ReceiveError {
    pub fn fault(&self) -> Fault {
        match self {
            // On a standby or a server that is being replaced this passes.
            ReceiveError::Walsender(error) => match error.server_error().map(|error| error.code.as_str()) {
                // The slot is in use: by an old connection of ours that the server has not given up yet, mostly.
                Some("55006") => Fault::Retry,
                // A start that lies ahead of the server.
                Some("XX000") => Fault::Retry,
                _ => error.fault(),
            },
            ReceiveError::Tail(error) => error.fault(),
            ReceiveError::Ahead { .. }
            | ReceiveError::Silent { .. }
            | ReceiveError::SlotLimit { .. }
            | ReceiveError::Again => Fault::Retry,
            ReceiveError::History { .. } => Fault::Corrupt,
            ReceiveError::SegmentSize(_) | ReceiveError::Removed { .. } => Fault::Operator,
        }
    }
}
