//! What keeps a standby from becoming the primary.

use std::path::PathBuf;
use std::time::Duration;

use skytide_sql::Lsn;
use skytide_sql::conn::{ConnectError, ConnectStringError};

use super::hook::HookError;
use crate::TimelineId;
use crate::durable::FileError;
use crate::restore::RestoreError;
use crate::ship::ShipError;
use crate::timeline::HistoryError;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PromoteError {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("node {node} cannot be connected to")]
    Connect {
        node: String,
        #[source]
        source: Box<ConnectError>,
    },
    #[error("node {node} does not {action}")]
    Sql {
        node: String,
        action: &'static str,
        #[source]
        source: tokio_postgres::Error,
    },
    #[error("node {node} gives an answer that makes no sense: {what}")]
    Answer { node: String, what: &'static str },
    #[error("node {node} does not have the history of timeline {timeline} in its pg_wal")]
    NoHistory { node: String, timeline: TimelineId },
    #[error("node {node} has a history that cannot be read")]
    History {
        node: String,
        #[source]
        source: HistoryError,
    },
    #[error("the connect string of node {node} cannot be made one for replication")]
    Conninfo {
        node: String,
        #[source]
        source: ConnectStringError,
    },
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Ship(#[from] ShipError),
    #[error(transparent)]
    Restore(#[from] RestoreError),
    #[error(transparent)]
    Hook(#[from] HookError),
    #[error("the fence (fence_command) did not succeed, so nothing is promoted")]
    Fence(#[source] HookError),
    /// Another process is at it.
    #[error("another promotion is going on: {} is locked", path.display())]
    Busy { path: PathBuf },
    #[error("{} is no journal of a promotion", path.display())]
    Journal {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error(
        "node {node} has replayed {replayed} after {waited:?}, and not {target}: its missing WAL did not come"
    )]
    NotBrought {
        node: String,
        replayed: Lsn,
        target: Lsn,
        waited: Duration,
    },
    #[error("node {node} was told to promote and is still in recovery after {waited:?}")]
    NotPromoted { node: String, waited: Duration },
    #[error("node {node} was promoted and takes no write after {waited:?}")]
    NoWrites { node: String, waited: Duration },
    #[error("node {node} is in trouble: {what}")]
    Node { node: String, what: String },
    #[error(
        "node {node} has {what} that the plan did not know of: its WAL ends at {end}, and not \
         at {known}; rewound for {leader} it would lose them, which --discard-commits allows"
    )]
    Gained {
        node: String,
        leader: String,
        /// How many commits, as far as they could be counted.
        what: String,
        known: Lsn,
        end: Lsn,
    },
    /// The promotion is done; these are not behind the new primary.
    #[error("{new} is the primary, and {} not following it: {}", if nodes.len() == 1 { "one node is" } else { "some nodes are" }, nodes.join("; "))]
    NotFollowing { new: String, nodes: Vec<String> },
    #[error(
        "the WAL that {node} had when it stopped, up to {target}, is not all on {candidate}, which has {end}"
    )]
    StoppedAhead {
        node: String,
        candidate: String,
        target: Lsn,
        end: Lsn,
    },
}

impl PromoteError {
    /// The server is there, and recovers still: `cannot_connect_now`.
    pub(super) fn is_starting(&self) -> bool {
        match self {
            PromoteError::Connect { source, .. } => {
                matches!(&**source, ConnectError::Refused { code: Some(code), .. } if code == "57P03")
            }
            _ => false,
        }
    }
}

/// Why nothing is done. Nothing was changed anywhere.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    #[error("node {0} is a primary, and answers")]
    PrimaryAlive(String),
    #[error("nodes {0} and {1} are both primaries")]
    TwoPrimaries(String, String),
    #[error("the postmaster of node {node} lives (process {pid}), though it does not answer")]
    PostmasterAlive { node: String, pid: i32 },
    #[error("the primary may live: somebody answers as node {node}, and does not let us in ({why})")]
    NotLetIn { node: String, why: String },
    #[error("node {node} still receives WAL from {from}: the primary seems to live")]
    StillReceiving { node: String, from: String },
    #[error("node {node} is of the cluster with system identifier {found}, and not {expected}")]
    OtherCluster { node: String, found: u64, expected: u64 },
    #[error("store {location} cannot be asked how far its WAL goes: {why}")]
    SilentStore { location: String, why: String },
    #[error("no standby answers")]
    NoCandidate,
    #[error("there is no node {0}")]
    UnknownNode(String),
    #[error("node {node} cannot be promoted: {why}")]
    Unfit { node: String, why: String },
    #[error("nothing keeps the old primary from coming back: fence_command is not set")]
    NoFence,
    #[error(
        "node {0} gets its missing WAL by restore_command, and it cannot be set on a running server of its version"
    )]
    NeedsRestoreCommand(String),
    #[error("no program for node {0} is known that gets WAL from the stores")]
    UnknownRestoreCommand(String),
    #[error("no node is a primary that answers")]
    NoPrimary,
    #[error("node {0} cannot be stopped from here")]
    CannotStop(String),
    #[error("a promotion of {new} has begun and is not finished")]
    OtherBegun { new: String },
    #[error("the WAL that node {node} lacks ({from} to {to}) is nowhere")]
    NoWay { node: String, from: Lsn, to: Lsn },
    #[error("there is a primary, {0}, and the unfinished promotion had not come to its own yet")]
    Overtaken(String),
    #[error(
        "{at} has WAL up to {end} of timeline {timeline} now, and {new} would be promoted with what there is up to {target}"
    )]
    MoreWal {
        new: String,
        target: Lsn,
        timeline: TimelineId,
        end: Lsn,
        at: String,
    },
    #[error("what is found has changed since the question was asked: this plan does not hold any more")]
    Changed,
}
