//! What can go wrong with backups.

use std::path::PathBuf;

use skytide_sql::Lsn;

use super::Label;
use super::tar::TarError;
use crate::TimelineId;
use crate::durable::FileError;
use crate::restore::RestoreError;
use crate::store::StoreError;
use crate::store::identity::IdentityError;
use crate::walsender::WalsenderError;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackupError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Walsender(#[from] WalsenderError),
    #[error(transparent)]
    Connect(skytide_sql::conn::ConnectError),
    #[error("the server refused")]
    Sql(#[source] tokio_postgres::Error),
    #[error(transparent)]
    File(#[from] FileError),
    #[error("no incremental backup can be made on {parent}: {what}")]
    NoIncremental { parent: Label, what: String },
    #[error("only {have} of {needed} stores have the backup")]
    TooFew {
        have: usize,
        needed: usize,
        #[source]
        source: StoreError,
    },
    #[error(
        "store {location} has timeline {timeline}, which left the server's timeline {own} at {lsn}: the server was \
         replaced by another one"
    )]
    Replaced {
        location: String,
        own: TimelineId,
        timeline: TimelineId,
        lsn: Lsn,
    },
    #[error("timeline {timeline} is not dropped: {what}")]
    Undroppable { timeline: TimelineId, what: String },
    #[error("another backup is called {0}, too")]
    Taken(Label),
    #[error("there is no backup {0}")]
    NoBackup(Label),
    #[error("there is no backup yet")]
    NoBackups,
    #[error("no backup was finished before {0}")]
    NoneBefore(String),
    #[error("{name} in store {location} is damaged: {what}")]
    Damaged {
        location: String,
        name: String,
        what: String,
    },
    #[error("{name} is in no store")]
    Missing { name: String },
    #[error("backup {label} makes no sense: {what}")]
    BadManifest { label: Label, what: String },
    #[error("what the server sent is no archive")]
    Tar(#[from] TarError),
    #[error("the server's manifest does not match what it sent: {0}")]
    ServerManifest(String),
    #[error("the server sent no {0}")]
    Incomplete(&'static str),
    #[error("{pages} pages have a wrong checksum, the first is block {block} of {path}")]
    DamagedPages { pages: u64, path: String, block: u32 },
    #[error("the cluster uses {what}, which is not supported: {value}")]
    Unsupported { what: &'static str, value: String },
    #[error("compression failed")]
    Compress(#[source] std::io::Error),
    #[error("WAL segment {segment} did not come to the stores within {seconds} s, and the backup needs it")]
    WalTimeout { segment: String, seconds: u64 },
    #[error("WAL is missing: {what}")]
    WalGap { what: String },
    #[error(transparent)]
    Wal(#[from] RestoreError),
    #[error("timeline {0} has no history file in the stores")]
    NoHistory(TimelineId),
    #[error("the target {target} cannot be reached: {what}")]
    Target { target: String, what: String },
    #[error("{} {what}", path.display())]
    TargetDir { path: PathBuf, what: String },
    #[error(
        "{} is a tablespace's place and in use, and {} does not lead to it: it may be a living server's",
        path.display(), data.display()
    )]
    TablespaceTaken { path: PathBuf, data: PathBuf },
    #[error("backup {label} vanished from the stores while it was written")]
    Vanished { label: Label },
    #[error(
        "backup {label} was begun meanwhile and may need what would be removed: call again when it has ended"
    )]
    Begun { label: Label },
    #[error("WAL at {lsn} cannot be read: {what}")]
    UnreadableWal { lsn: Lsn, what: String },
    #[error("backup {label} is built on {source_label}, which no store has")]
    NoGround { label: Label, source_label: Label },
    #[error("the backup was stopped; what there was of it is removed")]
    Stopped,
    #[error("the work was given up")]
    GivenUp,
}
