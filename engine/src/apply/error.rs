//! What can go wrong while a batch is applied.

use skytide_sql::TableName;
use skytide_sql::conn::ConnectError;
use skytide_sql::fault::{Fault, fault_of};

use crate::batch::BatchError;
use crate::change::{BadChange, RelationId};

/// Why a batch was not applied. Nothing of it stays on the subscriber, unless the connection broke
/// during the commit: then the position on the subscriber tells.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApplyError {
    /// The source could not give its changes.
    #[error("read the batch")]
    Source(#[from] BatchError),
    /// What goes with the batch could not be said.
    #[error("finish the batch")]
    Finish(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("read the batch")]
    BadChange(#[from] BadChange),
    /// A change names a relation the source does not know.
    #[error("the batch has rows of relation {} but not its description", .0.0)]
    UnknownRelation(RelationId),
    #[error("table {0} does not exist on the subscriber; create it, or remove it from the set")]
    NoTable(TableName),
    #[error(
        "table {table} was renamed on the provider to {now} and got changes under that name; rename it back there, then \
         with this configuration: resync {table}"
    )]
    Renamed { table: TableName, now: TableName },
    /// Rows of the provider can't be found here. `fix` is the statement that helps.
    #[error("table {table} has no unique index on the subscriber that finds the provider's rows; run: {fix}")]
    NoKeyIndex { table: TableName, fix: String },
    #[error(
        "table {0} got an update or delete, but its rows have no replica identity; \
         run on the provider: alter table {1} add primary key (…), or set a replica identity"
    )]
    NoIdentity(TableName, String),
    #[error(
        "column {column} of table {table} came without a value in an insert: a row filter let the row in by \
         an update that left a large value untouched; run on the provider: \
         alter table {quoted} replica identity full"
    )]
    ValueNotSent {
        table: TableName,
        quoted: String,
        column: String,
    },
    #[error(
        "a row of table {0} has a null in the columns of the unique index by which rows are found here; run on both \
         sides: alter table {1} add primary key (…), or create a unique index of columns that are never null"
    )]
    NullKey(TableName, String),
    #[error(
        "two rows of table {0} had one key for a moment, so that changes cannot be told apart by it; make the key not \
         deferrable on the provider: alter table {1} drop constraint …, add constraint …"
    )]
    SharedKey(TableName, String),
    #[error("a row of table {table} has {found} columns where {expected} are described")]
    ColumnCount {
        table: TableName,
        expected: usize,
        found: usize,
    },
    #[error("a value of column {column} of table {table} is not in its type's binary form")]
    BadBinary { table: TableName, column: String },
    #[error(
        "values of column {column} of table {table} came in a binary form that says something else here; make the \
         column's type on the subscriber what it is on the provider, or copy the table again by resync"
    )]
    ForeignType { table: TableName, column: String },
    #[error("one chunk of table {0} is too large to be kept in memory")]
    TooLarge(TableName),
    /// A statement failed; the server's message is the source.
    #[error("{doing} table {table}")]
    Table {
        doing: &'static str,
        table: TableName,
        #[source]
        error: tokio_postgres::Error,
    },
    #[error("{doing}")]
    Session {
        doing: &'static str,
        #[source]
        error: tokio_postgres::Error,
    },
    #[error("connect to the provider")]
    ConnectProvider(#[source] ConnectError),
    #[error("look up types on the provider")]
    Types(#[source] tokio_postgres::Error),
    #[error("connect to the subscriber")]
    Connect(#[from] ConnectError),
    #[error("may not set session_replication_role; grant it to the role, or install module londiste")]
    ReplicaRole(#[source] tokio_postgres::Error),
    #[error("the thread that prepares the batch stopped: {0}")]
    Planner(String),
    /// The receiving side ended; the cause is reported there.
    #[error("the subscriber's side ended")]
    Stopped,
}

impl ApplyError {
    pub fn fault(&self) -> Fault {
        match self {
            ApplyError::Connect(e) | ApplyError::ConnectProvider(e) => e.fault(),
            ApplyError::Types(e) => fault_of(e),
            ApplyError::Source(BatchError::Spool(e)) => e.fault(),
            ApplyError::Table { error, .. } | ApplyError::Session { error, .. } => fault_of(error),
            ApplyError::Planner(_) | ApplyError::Stopped | ApplyError::UnknownRelation(_) => Fault::Bug,
            ApplyError::BadChange(_) => Fault::Corrupt,
            _ => Fault::Operator,
        }
    }

    /// The server's error, if that is what it was.
    pub fn database(&self) -> Option<&tokio_postgres::Error> {
        match self {
            ApplyError::Table { error, .. }
            | ApplyError::Session { error, .. }
            | ApplyError::ReplicaRole(error) => Some(error),
            _ => None,
        }
    }
}
