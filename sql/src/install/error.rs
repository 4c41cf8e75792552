//! What can keep the modules from being installed.

use std::time::Duration;

use super::{Module, VERSION};

/// Why the modules could not be installed. Nothing was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InstallError {
    #[error("server version {0} is too old: PostgreSQL 13 or newer is needed")]
    ServerTooOld(String),

    #[error("schema {schema} is not PgQ's: it has no {missing}")]
    ForeignSchema { schema: Module, missing: String },

    #[error("{object} belongs to {owner}, not to {user}")]
    OtherOwner {
        object: String,
        owner: String,
        user: String,
    },

    #[error("extension {dependent} needs extension {extension}, which is to become a plain schema")]
    DependentExtension { extension: String, dependent: String },

    #[error("view {view} uses columns of pgq.subscription that move to another table")]
    DependentView { view: String },

    #[error("trigger {trigger} is on pgq.subscription, whose columns move to another table")]
    DependentTrigger { trigger: String },

    #[error("the tables of the old schemas could not be locked within {} seconds{holders}", .waited.as_secs())]
    Locked {
        waited: Duration,
        /// Who holds locks, each with its process or the name of a prepared transaction; starts with punctuation, empty if nobody was seen.
        holders: String,
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
            | InstallError::Database(source) => Some(source),
            _ => None,
        }
    }

    /// What the user does next.
    pub fn fix(&self) -> Option<String> {
        Some(match self {
            InstallError::ForeignSchema { schema, .. } => format!(
                "Use another database, or move the schema away with: alter schema {schema} rename to {schema}_old"
            ),
            InstallError::OtherOwner { owner, .. } => {
                format!("Connect as {owner}, or add to the connect string: options='-c role={owner}'")
            }
            InstallError::DependentExtension { dependent, .. } => {
                format!("Drop it with: drop extension {dependent}")
            }
            InstallError::DependentTrigger { trigger } => format!(
                "Drop it: drop trigger {trigger} on pgq.subscription. That is a view afterwards, and positions are in pgq.position."
            ),
            InstallError::DependentView { view } => format!(
                "Keep what select pg_get_viewdef('{view}') gives, drop the view, and make it again afterwards: \
                 pgq.subscription has the same columns then."
            ),
            InstallError::Locked { .. } => {
                "Wait for these transactions or end them, prepared ones by commit prepared or rollback prepared; \
                 or give a longer --lock-timeout."
                    .into()
            }
            _ => return None,
        })
    }
}
