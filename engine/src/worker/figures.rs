//! The worker's figures: metrics, readiness, and a line in the log now and then.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use metrics::{counter, gauge, histogram};
use skytide_sql::TickId;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{Shared, WorkerSettings, replay};
use crate::apply::Report;
use crate::config::unit::{show_count, show_size};
use crate::daemon::health::Health;
use crate::metrics as names;
use crate::spool::{self, Spool};

/// Seconds from 1970-01-01 to 2000-01-01.
const POSTGRES_EPOCH: f64 = 946_684_800.0;

/// What replay leaves for whoever reads figures.
#[derive(Default)]
pub struct Figures {
    /// When the completed tick was made, in microseconds since 2000-01-01 UTC; 0 for not known.
    tick_time: AtomicI64,
    rows: AtomicU64,
    missing: AtomicU64,
    batches: AtomicU64,
}

impl Figures {
    /// A batch was applied.
    pub fn applied(&self, report: &Report, ticks: usize, elapsed: Duration) {
        counter!(names::APPLY_BATCHES).increment(1);
        counter!(names::APPLY_TICKS).increment(ticks as u64);
        histogram!(names::APPLY_BATCH).record(elapsed);
        for (operation, rows) in [
            ("insert", report.inserted),
            ("update", report.updated),
            ("delete", report.deleted),
        ] {
            counter!(names::APPLIED_ROWS, "operation" => operation).increment(rows);
            self.rows.fetch_add(rows, Ordering::Relaxed);
        }
        let missing = report.missing_updates + report.missing_deletes;
        counter!(names::MISSING_ROWS).increment(missing);
        self.missing.fetch_add(missing, Ordering::Relaxed);
        self.batches.fetch_add(1, Ordering::Relaxed);
        if report.exact {
            counter!(names::EXACT_BATCHES).increment(1);
        }
    }

    /// The completed tick and when it was made, in microseconds since 2000-01-01 UTC.
    pub fn position(&self, tick: TickId, made_at: i64) {
        self.tick_time.store(made_at, Ordering::Relaxed);
        gauge!(names::APPLIED_TICK).set(tick.get() as f64);
        gauge!(names::TICK_LAG).set(lag(made_at));
    }

    /// Age of the completed tick, once there is one.
    fn lag(&self) -> Option<f64> {
        let made_at = self.tick_time.load(Ordering::Relaxed);
        (made_at != 0).then(|| lag(made_at))
    }
}

fn lag(made_at: i64) -> f64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |d| d.as_secs_f64());
    now - POSTGRES_EPOCH - made_at as f64 / 1e6
}

/// How long the spool is full before `status` says so, and how often it is said again: each batch clears it.
const FULL_FOR: Duration = Duration::from_secs(3);
const SAID_AGAIN: Duration = Duration::from_secs(20);

/// Why capture waits, from what is on disk and what may be.
fn no_room(bytes: u64, settings: &spool::Settings) -> String {
    let dir = settings.dir.display();
    if bytes.saturating_add(settings.segment_bytes) > settings.max_bytes {
        format!(
            "capture waits: the spool is full (spool_max_bytes, in {dir}): the subscriber has to catch up"
        )
    } else {
        format!("capture waits: no disk space for another spool segment in {dir}")
    }
}

/// Says a lasting lack of room where `status` looks, and takes it back.
#[derive(Default)]
struct Trouble {
    since: Option<Instant>,
    said: Option<(String, Instant)>,
}

impl Trouble {
    async fn look(&mut self, full: bool, bytes: u64, settings: &WorkerSettings) {
        if !full {
            self.since = None;
            if let Some((text, _)) = self.said.take() {
                replay::forget_error(settings, &text).await;
            }
            return;
        }
        let since = *self.since.get_or_insert_with(Instant::now);
        let due = self
            .said
            .as_ref()
            .is_none_or(|(_, at)| at.elapsed() >= SAID_AGAIN);
        if since.elapsed() >= FULL_FOR && due {
            let text = no_room(bytes, &settings.spool);
            replay::store_error(settings, &text).await;
            self.said = Some((text, Instant::now()));
        }
    }
}

/// Once a second: what moves by itself, or should move and does not.
pub async fn watch(shared: Arc<Shared>, spool: Arc<Spool>, health: Health, cancel: CancellationToken) {
    let mut every = interval(Duration::from_secs(1));
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut line_at = shared.settings.stats_period.map(|period| Instant::now() + period);
    let (mut rows, mut batches, mut missing) = (0, 0, 0);
    let mut trouble = Trouble::default();
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            _ = every.tick() => {}
        }
        let signals = &shared.signals;
        let (connected, full) = (signals.is_connected(), signals.is_full());
        let bytes = spool.stats().bytes;
        gauge!(names::SPOOL).set(bytes as f64);
        gauge!(names::CAPTURE_CONNECTED).set(f64::from(u8::from(connected)));
        gauge!(names::SPOOL_FULL).set(f64::from(u8::from(full)));
        let lag = shared.figures.lag();
        if let Some(lag) = lag {
            gauge!(names::TICK_LAG).set(lag);
        }
        match (full, connected) {
            (true, _) => health.waiting("the spool is full: the subscriber has to catch up"),
            (false, false) => health.waiting("no replication stream from the provider"),
            (false, true) => health.ready(),
        }
        tokio::select! {
            () = cancel.cancelled() => return,
            () = trouble.look(full, bytes, &shared.settings) => {}
        }
        let figures = &shared.figures;
        let now_missing = figures.missing.load(Ordering::Relaxed);
        if now_missing > missing {
            warn!(
                rows = now_missing - missing,
                "updates or deletes found no row on the subscriber: somebody else wrote there; \
                 skytide londiste CONF compare shows where, resync mends it"
            );
            missing = now_missing;
        }
        let (Some(due), Some(period)) = (line_at, shared.settings.stats_period) else {
            continue;
        };
        if Instant::now() >= due {
            let (all_rows, all_batches) = (
                figures.rows.load(Ordering::Relaxed),
                figures.batches.load(Ordering::Relaxed),
            );
            info!(
                tick = %*shared.main_tick.borrow(),
                lag = %lag.map_or("unknown".to_owned(), |lag| format!("{lag:.1}s")),
                rows = %show_count(all_rows - rows),
                batches = all_batches - batches,
                spool = %show_size(bytes),
                connected,
                "figures"
            );
            (rows, batches) = (all_rows, all_batches);
            line_at = Some(Instant::now() + period);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_from_a_full_quota() {
        let mut settings = spool::Settings::new("/spool");
        settings.segment_bytes = 1 << 20;
        settings.max_bytes = 4 << 20;
        assert!(no_room(4 << 20, &settings).contains("the spool is full (spool_max_bytes, in /spool)"));
        assert!(no_room(2 << 20, &settings).contains("no disk space for another spool segment in /spool"));
    }
}
