//! Names of the metrics, and counting: each count goes to the metric and to the figures line.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use metrics::{Counter, Histogram};
use tokio::sync::watch;

use crate::{Condition, Conditions, Counters};

pub const TICKS: &str = "skytide_ticker_ticks_total";
pub const MAINTENANCE: &str = "skytide_ticker_maintenance_total";
pub const RETRIED: &str = "skytide_ticker_retried_events_total";
pub const ERRORS: &str = "skytide_ticker_errors_total";
pub const ROUNDS: &str = "skytide_ticker_rounds_total";
/// Rounds that were left out because the one before took too long.
pub const MISSED: &str = "skytide_ticker_missed_rounds_total";
pub const ROUND: &str = "skytide_ticker_round_seconds";
/// From when a round was due to when it began.
pub const LATENESS: &str = "skytide_ticker_round_lateness_seconds";
/// 1 while this process is the active ticker of the database.
pub const ACTIVE: &str = "skytide_ticker_active";

/// Counts for one database, and its condition.
#[derive(Clone)]
pub(crate) struct Tally {
    database: Arc<str>,
    counters: Arc<Counters>,
    conditions: Arc<watch::Sender<Conditions>>,
    // Used in each round: not looked up anew.
    ticks: Counter,
    rounds: Counter,
    missed: Counter,
    round: Histogram,
    lateness: Histogram,
}

impl Tally {
    pub fn new(database: &str, counters: Arc<Counters>, conditions: Arc<watch::Sender<Conditions>>) -> Tally {
        let label = || database.to_owned();
        Tally {
            database: database.into(),
            counters,
            conditions,
            ticks: metrics::counter!(TICKS, "database" => label()),
            rounds: metrics::counter!(ROUNDS, "database" => label()),
            missed: metrics::counter!(MISSED, "database" => label()),
            round: metrics::histogram!(ROUND, "database" => label()),
            lateness: metrics::histogram!(LATENESS, "database" => label()),
        }
    }

    pub fn ticks(&self, n: u64) {
        self.counters.ticks.fetch_add(n, Relaxed);
        self.ticks.increment(n);
    }

    /// A round began so late.
    pub fn late(&self, by: Duration) {
        self.lateness.record(by);
    }

    /// A round took so long.
    pub fn round(&self, took: Duration) {
        self.rounds.increment(1);
        self.round.record(took);
    }

    pub fn missed(&self, rounds: u64) {
        self.missed.increment(rounds);
    }

    pub fn maintenance(&self) {
        self.count(MAINTENANCE, &self.counters.maint, 1);
    }

    pub fn retried(&self, n: u64) {
        self.count(RETRIED, &self.counters.retry, n);
    }

    pub fn error(&self) {
        self.count(ERRORS, &self.counters.errors, 1);
    }

    /// What the database is to its ticker now; `None` when it is not on the list any more.
    pub fn is(&self, condition: Option<Condition>) {
        let active = condition == Some(Condition::Ticking);
        metrics::gauge!(ACTIVE, "database" => self.database.to_string()).set(f64::from(u8::from(active)));
        self.conditions.send_if_modified(|all| match condition {
            Some(condition) => {
                all.insert(self.database.to_string(), condition.clone()).as_ref() != Some(&condition)
            }
            None => all.remove(&*self.database).is_some(),
        });
    }

    fn count(&self, name: &'static str, counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Relaxed);
        metrics::counter!(name, "database" => self.database.to_string()).increment(n);
    }
}
