//! The loss window, shown while WAL is copied.

use std::error::Error as StdError;
use std::pin::pin;
use std::time::Duration;

use metrics::gauge;
use skytide_wal::receive::Phase;
use skytide_wal::tail::{StoreWindow, Window};
use skytide_wal::walsender::Timestamp;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::daemon::tick;
use super::reload;
use crate::config::settings::WalmgrSettings;
use crate::config::unit::show_size;
use crate::daemon::Daemon;
use crate::daemon::health::Health;
use crate::metrics as names;

const FIGURES: Duration = Duration::from_secs(1);

/// Work that goes on until it is told to stop, and what it shows of itself.
pub struct Live<'a> {
    pub window: &'a Window,
    pub phase: watch::Receiver<Phase>,
    pub slot: Option<SlotWanted>,
}

impl Live<'_> {
    /// Until the work is done; or until the configuration was read again and is another one. Then the work is stopped,
    /// and what `usable` makes of the new settings goes on where it ended.
    pub async fn show_while<E: StdError + Send + Sync + 'static, W>(
        &self,
        work: impl Future<Output = Result<(), E>>,
        settings: &WalmgrSettings,
        daemon: &mut Daemon,
        (load, usable): (
            &impl Fn() -> anyhow::Result<WalmgrSettings>,
            &impl Fn(&WalmgrSettings) -> anyhow::Result<W>,
        ),
        stop: &CancellationToken,
    ) -> anyhow::Result<Option<(WalmgrSettings, W)>> {
        let mut work = pin!(work);
        let mut next = None;
        let mut figures = tokio::time::interval(FIGURES);
        let mut stats = settings.process.stats_period.map(tokio::time::interval);
        loop {
            tokio::select! {
                done = &mut work => return Ok(done.map(|()| next)?),
                _ = figures.tick() => self.show(&daemon.health),
                Ok(()) = daemon.reloads.changed() => {
                    daemon.manager.reloading();
                    if let Some(new) = reload::read(load, settings).filter(|new| new != settings) {
                        match usable(&new) {
                            Ok(work) => {
                                next = Some((new, work));
                                stop.cancel();
                            }
                            Err(error) => {
                                error!(error = format!("{error:#}"), "the old configuration stays in force");
                            }
                        }
                    }
                    daemon.manager.ready();
                }
                () = tick(&mut stats) => log(self.window),
            }
        }
    }

    fn show(&self, health: &Health) {
        publish(self.window);
        let phase = self.phase.borrow().clone();
        let streams = matches!(phase, Phase::Streaming { .. });
        gauge!(names::WAL_RECEIVING).set(f64::from(u8::from(streams)));
        match phase {
            Phase::Streaming { slot: false, .. } if self.slot.is_some() => health.waiting(
                "the slot was dropped at its limit; it is made again when the stores have caught up",
            ),
            Phase::Streaming { .. } => judge(self.window, self.slot, health),
            Phase::Connecting => health.waiting("connecting to the server"),
            Phase::Waiting { why } => health.waiting(why),
        }
    }
}

fn publish(window: &Window) {
    for store in window.stores() {
        let at = [("store", store.location.clone())];
        gauge!(names::WAL_WINDOW_BYTES, &at).set(store.bytes as f64);
        gauge!(names::WAL_WINDOW_SECONDS, &at).set(store.time.as_secs_f64());
        gauge!(names::WAL_STORE_TAKES, &at).set(f64::from(u8::from(store.trouble.is_none())));
        if let Some(seconds) = store.safe.last_commit.and_then(unix_seconds) {
            gauge!(names::WAL_SAFE_COMMIT, &at).set(seconds);
        }
    }
}

fn unix_seconds(time: Timestamp) -> Option<f64> {
    let since = time.to_system_time()?.duration_since(std::time::UNIX_EPOCH);
    Some(since.ok()?.as_secs_f64())
}

/// A slot is to be used, and dropped when it holds so many bytes.
#[derive(Debug, Clone, Copy)]
pub struct SlotWanted {
    pub limit: Option<u64>,
}

/// Ready while every store takes WAL, and none is so far behind that the slot may be lost.
fn judge(window: &Window, slot: Option<SlotWanted>, health: &Health) {
    let limit = slot.and_then(|slot| slot.limit);
    let trouble = window.stores().into_iter().find_map(|store| {
        let StoreWindow {
            location,
            trouble,
            bytes,
            ..
        } = store;
        match (trouble, limit) {
            (Some(why), _) => Some(format!("store {location} takes no WAL: {why}")),
            (None, Some(limit)) if bytes > limit / 2 => Some(format!(
                "store {location} is {} behind the server; at {} the slot is dropped",
                show_size(bytes),
                show_size(limit)
            )),
            (None, _) => None,
        }
    });
    match trouble {
        Some(why) => health.waiting(why),
        None => health.ready(),
    }
}

fn log(window: &Window) {
    for store in window.stores() {
        info!(
            store = store.location,
            end = %store.safe.boundary,
            window_bytes = store.bytes,
            window_ms = u64::try_from(store.time.as_millis()).unwrap_or(u64::MAX),
            "copied so far"
        );
    }
}
