//! Names of the metrics, and counting: each count goes to the metric and to the figures line.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::Counters;

pub const TICKS: &str = "skytide_ticker_ticks_total";
pub const MAINTENANCE: &str = "skytide_ticker_maintenance_total";
pub const RETRIED: &str = "skytide_ticker_retried_events_total";
pub const ERRORS: &str = "skytide_ticker_errors_total";
/// 1 while this process is the active ticker of the database.
pub const ACTIVE: &str = "skytide_ticker_active";

/// Counts for one database.
#[derive(Clone, Debug)]
pub(crate) struct Tally {
    database: Arc<str>,
    counters: Arc<Counters>,
}

impl Tally {
    pub fn new(database: &str, counters: Arc<Counters>) -> Tally {
        Tally {
            database: database.into(),
            counters,
        }
    }

    pub fn ticks(&self, n: u64) {
        self.count(TICKS, &self.counters.ticks, n);
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

    pub fn active(&self, active: bool) {
        metrics::gauge!(ACTIVE, "database" => self.database.to_string()).set(f64::from(u8::from(active)));
    }

    fn count(&self, name: &'static str, counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Relaxed);
        metrics::counter!(name, "database" => self.database.to_string()).increment(n);
    }
}
