//! From a standby to the primary: by evidence, in steps that are written down.
//!
//! [`survey`] finds out what there is and changes nothing; [`choose`] makes a plan of it or says why there is none;
//! [`Promotion`] does the plan's steps one after the other and notes each in a journal, so that whoever is killed
//! between two of them is followed by one that goes on. [`rejoin`] brings a former primary behind the new one.

mod again;
mod error;
mod follow;
mod gained;
mod hook;
mod journal;
mod loss;
mod node;
mod old;
mod plan;
mod slots;
mod source;
mod steps;
mod survey;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use skytide_sql::conn::ConnectString;

pub use again::reconsider;
pub use error::{PromoteError, Refusal};
pub use follow::{rejoin, would_rejoin};
pub use hook::{Hook, HookError};
pub use journal::{Done, Journal, KnownEnd, Step};
pub use loss::Lacks;
pub use plan::{Plan, Way, Wish, choose};
pub use steps::Promotion;
pub use survey::{
    Furthest, NodeLook, OldDisk, OldPrimary, Place, Standby, Standing, StoreFound, Survey, survey,
};

use crate::store::Store;

#[derive(Debug, Clone)]
pub struct Settings {
    pub nodes: Vec<NodeSettings>,
    pub stores: Vec<Arc<dyn Store>>,
    pub stores_needed: usize,
    /// zstd's level for whole segments.
    pub compression_level: i32,
    /// Keeps the old primary from coming back. It may be called again.
    pub fence: Option<Hook>,
    /// Without a fence nothing is promoted.
    pub fence_required: bool,
    /// How long a node may take to answer before it counts as silent.
    pub answer_timeout: Duration,
    /// How long a program may run.
    pub hook_timeout: Duration,
    /// How long a server may make no progress in what it was told.
    pub wait_timeout: Duration,
    /// Bytes that a standby may be behind a primary that is to be stopped for it.
    pub switchover_max_lag: u64,
    pub journal: PathBuf,
}

/// A server of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeSettings {
    pub name: String,
    /// As a superuser.
    pub db: ConnectString,
    /// How other nodes reach it for replication; without it as `db` says.
    pub follow: Option<ConnectString>,
    /// Its data directory, if that is on this host.
    pub data_dir: Option<PathBuf>,
    /// Where its version's programs are.
    pub bin_dir: Option<PathBuf>,
    /// What its server runs to get WAL from the stores, with `%f` and `%p`.
    pub restore_command: Option<String>,
    /// Instead of `pg_ctl start` and `pg_ctl stop`.
    pub start: Option<Hook>,
    pub stop: Option<Hook>,
}

impl Settings {
    pub fn node(&self, name: &str) -> Option<&NodeSettings> {
        self.nodes.iter().find(|node| node.name == name)
    }
}
