//! The PgQ ticker: ticks, rotation and other maintenance, retries, for many databases.
//!
//! Each database has one task. It holds a session advisory lock while it works, so that of several
//! tickers one is active and the others stand by. Three loops share the work: [`tick`], [`maint`] and
//! [`retry`]; none waits for another.

mod alarm;
mod database;
mod databases;
mod idle;
mod maint;
mod metrics;
mod pace;
mod retry;
mod tick;
mod trouble;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use skytide_sql::conn::ConnectString;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use self::idle::LOCK_CLASS;
pub use self::metrics::{ACTIVE, ERRORS, LATENESS, MAINTENANCE, MISSED, RETRIED, ROUND, ROUNDS, TICKS};

/// Which databases are ticked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Databases {
    List(Vec<ConnectString>),
    /// Every database of one server that allows connections. This connects to the one that is asked
    /// for the others, again each check period.
    Discover(Box<ConnectString>),
}

/// Everything may be changed while the ticker runs.
#[derive(Clone, Debug)]
pub struct Settings {
    pub databases: Databases,
    /// From the start of one round of ticks to the start of the next.
    pub ticker_period: Duration,
    pub maint_period: Duration,
    pub retry_period: Duration,
    /// A line of figures this often; `None` for never.
    pub stats_period: Option<Duration>,
    /// How often new databases, and PgQ in databases without it, are looked for.
    pub check_period: Duration,
    /// Age at which the ticking session is replaced by a new one.
    pub connection_lifetime: Duration,
    /// Ticks made on request in one queue are at least this far apart.
    pub min_tick_age: Duration,
}

impl Settings {
    /// The defaults that pgqd had.
    pub fn new(databases: Databases) -> Settings {
        Settings {
            databases,
            ticker_period: Duration::from_secs(1),
            maint_period: Duration::from_secs(120),
            retry_period: Duration::from_secs(30),
            stats_period: Some(Duration::from_secs(30)),
            check_period: Duration::from_secs(60),
            connection_lifetime: Duration::from_secs(3600),
            min_tick_age: Duration::from_millis(2),
        }
    }
}

/// What was done, in all databases together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Ticks made, not rounds.
    pub ticks: u64,
    /// Rounds of maintenance.
    pub maint: u64,
    /// Events put back into their queues.
    pub retry: u64,
    pub errors: u64,
}

impl Stats {
    fn since(&self, earlier: &Stats) -> Stats {
        Stats {
            ticks: self.ticks - earlier.ticks,
            maint: self.maint - earlier.maint,
            retry: self.retry - earlier.retry,
            errors: self.errors - earlier.errors,
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TickerError {
    #[error("no database to tick: name one (--db, database_list) or leave the list out to tick all")]
    NoDatabases,
}

/// What a database is to its ticker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// It was not looked at yet.
    Unknown,
    Ticking,
    /// There is nothing to do, in words: a standby, another ticker, no PgQ, no such database.
    Idle(String),
    /// It cannot be ticked, in words.
    Failing(String),
}

/// By name of the database.
pub type Conditions = BTreeMap<String, Condition>;

/// Ticks until cancelled; then what is being done is finished. Databases that cannot be reached, or that
/// are not to be ticked now, are waited for.
pub async fn run(
    settings: watch::Receiver<Settings>,
    cancel: CancellationToken,
) -> Result<Stats, TickerError> {
    run_watched(settings, watch::channel(Conditions::new()).0, cancel).await
}

/// Like [`run`], and tells what becomes of each database.
pub async fn run_watched(
    settings: watch::Receiver<Settings>,
    conditions: watch::Sender<Conditions>,
    cancel: CancellationToken,
) -> Result<Stats, TickerError> {
    if matches!(&settings.borrow().databases, Databases::List(list) if list.is_empty()) {
        return Err(TickerError::NoDatabases);
    }
    Ok(databases::run(settings, conditions, cancel).await)
}

/// Shared counters behind [`Stats`].
#[derive(Debug, Default)]
struct Counters {
    ticks: AtomicU64,
    maint: AtomicU64,
    retry: AtomicU64,
    errors: AtomicU64,
}

impl Counters {
    fn read(&self) -> Stats {
        Stats {
            ticks: self.ticks.load(Relaxed),
            maint: self.maint.load(Relaxed),
            retry: self.retry.load(Relaxed),
            errors: self.errors.load(Relaxed),
        }
    }
}
