//! What can keep the modules from being installed.

use std::time::Duration;

use super::{Module, VERSION};

/// Why the modules could not be installed. Nothing was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InstallError {
    #[error("server version {0} is too old: PostgreSQL 13 or newer is needed")]
    ServerTooOld(String),

    #[error(
        "schema {schema} is not PgQ's: it has no {missing}; use another database, or move the schema away with: \
         alter schema {schema} rename to {schema}_old"
    )]
    ForeignSchema { schema: Module, missing: String },

    #[error(
        "{object} belongs to {owner}, not to {user}; connect as {owner}, or add to the connect string: \
         options='-c role={owner}'"
    )]
    OtherOwner {
        object: String,
        owner: String,
        user: String,
    },

    #[error(
        "extension {dependent} needs extension {extension}, which is to become plain schemas; \
         drop it with: drop extension {dependent}"
    )]
    DependentExtension { extension: String, dependent: String },

    #[error(
        "view {view} uses columns of pgq.subscription that move to another table; keep its definition from \
         pg_get_viewdef('{view}'), drop it, install, and make it again: the columns have the same names then"
    )]
    DependentView { view: String },

    #[error(
        "the tables of the old schemas could not be locked within {} seconds{holders}; \
         wait for these transactions or end them, or give --lock-timeout more", .waited.as_secs()
    )]
    Locked {
        waited: Duration,
        /// Who holds locks, each with its process; starts with punctuation, empty if nobody was seen.
        holders: String,
        #[source]
        source: tokio_postgres::Error,
    },

    #[error(
        "{what} would not be the same after the upgrade ({before} before, {after} after); nothing was changed"
    )]
    Different {
        what: &'static str,
        before: String,
        after: String,
    },

    #[error("take schema {schema} out of its extension")]
    Detach {
        schema: Module,
        #[source]
        source: tokio_postgres::Error,
    },

    #[error("module {module} was installed by skytide {installed}, which is newer than this one ({VERSION})")]
    Newer { module: Module, installed: String },

    #[error("run {module}/{file}")]
    Script {
        module: Module,
        file: &'static str,
        #[source]
        source: tokio_postgres::Error,
    },

    #[error("function {function} {fault}")]
    Verify { function: String, fault: String },

    #[error("inspect the installed modules")]
    Database(#[from] tokio_postgres::Error),
}

impl InstallError {
    /// The server's error beneath, if there is one.
    pub(super) fn server(&self) -> Option<&tokio_postgres::Error> {
        match self {
            InstallError::Detach { source, .. }
            | InstallError::Script { source, .. }
            | InstallError::Locked { source, .. }
            | InstallError::Database(source) => Some(source),
            _ => None,
        }
    }
}
