//! The initial copy of a table, beside the replay of all others.
//!
//! `fence` waits for writers the publication came too late for, `snapshot` fixes what is copied,
//! `plan` compares the two tables, `transfer` moves the rows, `indexes` takes indexes away and builds
//! them again, `job` runs these in order and catches up from the spool.

pub mod fence;
pub mod indexes;
pub mod job;
pub mod plan;
pub mod progress;
pub mod snapshot;
pub mod transfer;

pub use job::{CopyJob, Handover};
pub use progress::{Phase, Progress};

use skytide_sql::TableName;
use skytide_sql::api::ApiError;
use skytide_sql::conn::ConnectError;
use skytide_sql::fault::{Fault, fault_of};
use skytide_sql::names::BadName;
use tokio_postgres::error::SqlState;

use crate::apply::ApplyError;
use crate::batch::BatchError;
use crate::table::{BadState, IllegalStep};

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CopyError {
    #[error("table {table} does not exist on the {side}")]
    NoTable { table: TableName, side: &'static str },
    #[error("table {table} is not in the provider's publication {publication}")]
    NotPublished { table: TableName, publication: String },
    /// Somebody else has or wants a lock on it: waiting for him here could hold up both for ever.
    #[error("table {table} is locked on the {side}, or somebody waits there to lock it: the copy makes way")]
    Locked { table: TableName, side: &'static str },
    #[error("tables {table} on provider and subscriber have no column in common")]
    NoColumns { table: TableName },
    #[error("the state of table {table} was changed by somebody else")]
    SetBack { table: TableName },
    #[error(transparent)]
    Name(#[from] BadName),
    #[error("table {table}: {what}")]
    Table { table: TableName, what: String },
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Sql(#[from] tokio_postgres::Error),
    #[error(transparent)]
    Refused(#[from] ApiError),
    #[error(transparent)]
    Batch(#[from] BatchError),
    #[error(transparent)]
    Apply(#[from] ApplyError),
    #[error(transparent)]
    Step(#[from] IllegalStep),
    #[error(transparent)]
    State(#[from] BadState),
    #[error("table {table} has columns whose values can only travel as text")]
    NeedsText { table: TableName },
    #[error("the worker stopped")]
    Cancelled,
}

impl CopyError {
    /// The same, or that the table could not be locked.
    fn or_locked(self, table: &TableName, side: &'static str) -> CopyError {
        let code = match &self {
            CopyError::Sql(e) | CopyError::Refused(ApiError::Call { source: e, .. }) => e.code(),
            _ => None,
        };
        if code == Some(&SqlState::LOCK_NOT_AVAILABLE) {
            return CopyError::Locked {
                table: table.clone(),
                side,
            };
        }
        self
    }

    pub fn fault(&self) -> Fault {
        match self {
            CopyError::Connect(e) => e.fault(),
            CopyError::Sql(e) => fault_of(e),
            CopyError::Apply(e) => e.fault(),
            CopyError::Refused(e) => e.fault(),
            CopyError::Cancelled | CopyError::SetBack { .. } | CopyError::Locked { .. } => Fault::Retry,
            CopyError::Step(_) | CopyError::State(_) => Fault::Bug,
            _ => Fault::Operator,
        }
    }
}
