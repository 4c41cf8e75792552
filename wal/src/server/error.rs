//! Why a server was not brought to do what it should.

use std::path::PathBuf;
use std::time::Duration;

use skytide_sql::Lsn;
use skytide_sql::conn::{ConnectError, ConnectStringError};

use super::sync_names::SyncNames;
use crate::TimelineId;
use crate::durable::FileError;
use crate::ship::ShipError;
use crate::store::StoreError;
use crate::store::identity::IdentityError;
use crate::succession::Successor;
use crate::tail::TailError;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("{doing}")]
    Sql {
        doing: &'static str,
        source: tokio_postgres::Error,
    },
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Tail(#[from] TailError),
    #[error("the server's answer makes no sense: {0}")]
    Answer(&'static str),
    #[error("no server runs on {}", data_dir.display())]
    NotRunning { data_dir: PathBuf },
    #[error("the server is no standby: it takes writes")]
    NoStandby,
    #[error("the server is a standby")]
    NoPrimary,
    #[error("{name} is still {found:?} after it was set to {wanted:?}: it comes from the {from}")]
    Overridden {
        name: &'static str,
        found: String,
        wanted: String,
        from: String,
    },
    #[error("{segment} did not come into store {location} within {waited:?}")]
    NotArchived {
        segment: String,
        location: String,
        waited: Duration,
        /// What the archiver failed with last, if it did.
        failed: Option<String>,
    },
    #[error("replay is {found:?} after {waited:?}, not {wanted}")]
    Replay {
        wanted: &'static str,
        found: String,
        waited: Duration,
    },
    #[error("the primary lives: it streams WAL to this standby")]
    PrimaryLives,
    #[error(
        "the primary lives: the server that primary_conninfo names answers at {host}, and takes writes or may"
    )]
    PrimaryAnswers { host: String },
    #[error(
        "whether the primary lives is not known: the server that primary_conninfo names answers at {host}, and is a standby"
    )]
    StandbyAnswers { host: String },
    #[error("the primary cannot be asked whether it lives: the standby's primary_conninfo is not understood")]
    Conninfo(#[source] ConnectStringError),
    #[error(
        "whether the primary lives is not known: nobody may ask the standby, its processes do not tell whether it \
         streams, and primary_conninfo is not set here"
    )]
    PrimaryUnknown,
    #[error(
        "the standby has replayed timeline {timeline} up to {replayed}, and by store {location} timeline {} left it at {}: \
         somebody else took over", successor.timeline, successor.lsn
    )]
    LeftBehind {
        timeline: TimelineId,
        replayed: Lsn,
        successor: Successor,
        location: String,
    },
    #[error("the standby's own WAL cannot be read")]
    OwnWal(#[source] Box<ShipError>),
    #[error("this standby is of the cluster {standby}, store {location} of {store}")]
    OtherCluster {
        standby: u64,
        store: u64,
        location: String,
    },
    #[error("store {location} cannot be asked what it has")]
    NoAnswer {
        location: String,
        #[source]
        source: TailError,
    },
    #[error("the standby has replayed up to {replayed}, store {location} has WAL up to {stored}")]
    Lacks {
        replayed: Lsn,
        stored: Lsn,
        location: String,
        restore_command: String,
    },
    #[error("the server does not take writes {waited:?} after it was told to")]
    NotPromoted { waited: Duration },
    #[error("every commit would wait: {names} asks for {needed} that stream, and {there} do")]
    WouldHang {
        names: SyncNames,
        needed: u32,
        there: usize,
        /// Those that are connected, by their names.
        connected: Vec<String>,
    },
}

/// An SQL error with what was being done.
pub(super) trait Doing<T> {
    fn doing(self, doing: &'static str) -> Result<T, ServerError>;
}

impl<T> Doing<T> for Result<T, tokio_postgres::Error> {
    fn doing(self, doing: &'static str) -> Result<T, ServerError> {
        self.map_err(|source| ServerError::Sql { doing, source })
    }
}
