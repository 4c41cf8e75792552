//! Copies WAL out of a server's own data directory into stores: beside a live server up to what it has made durable
//! ([`Shipper`]), and from a dead one up to where its own recovery would end ([`salvage`]).

mod dir;
mod error;
mod feed;
mod push;
mod salvage;

use std::future::Future;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use skytide_sql::Lsn;
use skytide_sql::backoff::Backoff;
use skytide_sql::conn::{ConnectString, Session, connect};
use skytide_sql::fault::Fault;
use tokio::sync::watch;

pub(crate) use dir::{WalDir, control};
pub use error::ShipError;
pub use push::{PushSettings, Pushed, push};
pub use salvage::{DeadServer, SalvageSettings, Salvaged, StoreSalvage, salvage};

use self::feed::Feed;
use crate::TimelineId;
use crate::receive::Phase;
use crate::store::Store;
use crate::store::identity::Identity;
use crate::tail::{self, Window};

#[derive(Debug, Clone)]
pub struct Settings {
    pub data_dir: PathBuf,
    /// The server of that directory.
    pub server: ConnectString,
    pub application_name: String,
    /// How often it is asked how far its WAL is on disk.
    pub interval: Duration,
    pub stores: Vec<Arc<dyn Store>>,
    pub stores_needed: usize,
    pub compression_level: i32,
}

/// What a server says of its WAL. A standby says what it has received and made durable.
const POSITION: &str = "\
select case when pg_is_in_recovery() then pg_last_wal_receive_lsn() else pg_current_wal_flush_lsn() end::text,
       case when pg_is_in_recovery() then (select received_tli from pg_stat_wal_receiver)
            else ('x' || left(pg_walfile_name(pg_current_wal_flush_lsn()), 8))::bit(32)::int end,
       (select system_identifier from pg_control_system())";

/// Reads a live server's `pg_wal`.
#[derive(Debug)]
pub struct Shipper {
    settings: Settings,
    window: Arc<Window>,
    phase: watch::Sender<Phase>,
}

struct Position {
    flush: Lsn,
    timeline: TimelineId,
    system_id: u64,
}

impl Shipper {
    pub fn new(settings: Settings) -> Shipper {
        let locations = settings.stores.iter().map(|store| store.location().to_owned());
        Shipper {
            window: Arc::new(Window::new(locations)),
            settings,
            phase: watch::Sender::new(Phase::Connecting),
        }
    }

    /// Live numbers.
    pub fn window(&self) -> Arc<Window> {
        self.window.clone()
    }

    pub fn phase(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    /// Ships until `stop`, through restarts of the server and the stores. An error is one that only a person can do
    /// something about.
    pub async fn run(self, stop: impl Future<Output = ()> + Send) -> Result<(), ShipError> {
        let (stopped, mut heard) = watch::channel(false);
        let mut stop = pin!(stop);
        let mut work = pin!(self.work(&mut heard));
        tokio::select! {
            done = &mut work => return done,
            () = &mut stop => stopped.send_replace(true),
        };
        // A round that has begun comes to its end.
        work.await
    }

    /// One round: what the server has on its disk now, and an error at once if that does not work.
    pub async fn once(&self) -> Result<(), ShipError> {
        let (_stopped, mut heard) = watch::channel(true);
        Box::pin(self.session(&mut heard)).await
    }

    async fn work(&self, stop: &mut watch::Receiver<bool>) -> Result<(), ShipError> {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
        loop {
            let began = std::time::Instant::now();
            let error = match Box::pin(self.session(stop)).await {
                Ok(()) => return Ok(()),
                Err(error) if error.fault() == Fault::Retry => error,
                Err(error) => return Err(error),
            };
            if began.elapsed() > Duration::from_secs(10) {
                backoff.reset();
            }
            let why = crate::tail::words(&error);
            tracing::warn!(error = why, "shipping was interrupted");
            self.phase.send_replace(Phase::Waiting { why });
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return Ok(()),
                () = tokio::time::sleep(backoff.next_delay()) => {}
            }
        }
    }

    async fn session(&self, stop: &mut watch::Receiver<bool>) -> Result<(), ShipError> {
        self.phase.send_replace(Phase::Connecting);
        let control = dir::control(&self.settings.data_dir)?;
        let identity = Identity {
            system_id: control.system_id,
            segment_size: control.segment_size,
        };
        let settings = tail::Settings {
            stores: self.settings.stores.clone(),
            needed: self.settings.stores_needed,
            level: self.settings.compression_level,
            identity,
        };
        let dir = WalDir::new(&self.settings.data_dir, identity.segment_size);
        let session = connect(&self.settings.server, &self.settings.application_name).await?;
        let mut feed: Option<(TimelineId, Feed)> = None;
        loop {
            let position = position(&session).await?;
            if position.system_id != identity.system_id {
                return Err(ShipError::OtherServer {
                    server: position.system_id,
                    directory: identity.system_id,
                });
            }
            let mut current = match feed.take() {
                Some((timeline, feed)) if timeline == position.timeline => feed,
                _ => {
                    let (path, _) = dir.history(position.timeline)?;
                    self.window.follow(&path);
                    self.window.server(position.flush);
                    let (dir, path, window) = (dir.clone(), Arc::new(path), self.window.clone());
                    let feed = Feed::begin(dir, settings.clone(), path, window, position.flush).await?;
                    tracing::info!(from = %feed.tail.end(), timeline = %position.timeline, "shipping");
                    self.phase.send_replace(Phase::Streaming {
                        timeline: position.timeline,
                        slot: false,
                    });
                    feed
                }
            };
            self.window.server(position.flush);
            current.up_to(position.flush).await?;
            if *stop.borrow() {
                current.tail.finish().await?;
                tracing::info!(end = %current.tail.end(), "stopped shipping");
                return Ok(());
            }
            feed = Some((position.timeline, current));
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => {}
                () = tokio::time::sleep(self.settings.interval) => {}
            }
        }
    }
}

async fn position(session: &Session) -> Result<Position, ShipError> {
    let row = session.query_one(POSITION, &[]).await?;
    let flush: Option<String> = row.get(0);
    let timeline: Option<i32> = row.get(1);
    let (Some(flush), Some(timeline)) = (flush, timeline) else {
        return Err(ShipError::NotReceiving);
    };
    let system_id: i64 = row.get(2);
    Ok(Position {
        flush: flush.parse().map_err(|_| ShipError::Answer("a WAL position"))?,
        timeline: u32::try_from(timeline)
            .ok()
            .and_then(TimelineId::new)
            .ok_or(ShipError::Answer("a timeline"))?,
        system_id: system_id.cast_unsigned(),
    })
}
