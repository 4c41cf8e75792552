//! Receives a server's WAL by physical replication into stores, up to the last record, for as long as it runs.
//!
//! What is reported as flushed is on the disks of as many stores as are needed, so the receiver may be a synchronous
//! standby: no commit that was acknowledged is missing in the stores then. Its slot keeps on the server what the
//! stores do not have, up to a limit; above that the slot is dropped, because the primary's disk comes first.

mod error;
mod slot;
mod stream;

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use skytide_sql::backoff::Backoff;
use skytide_sql::conn::ConnectString;
use skytide_sql::fault::Fault;
use skytide_sql::{Lsn, SlotName};
use tokio::sync::watch;

pub use error::ReceiveError;

use self::stream::Ended;
use crate::store::Store;
use crate::store::identity::Identity;
use crate::tail::{self, Tail, TailError, Window, next_after, start_of, survey_all};
use crate::walsender::{Client, IdentifySystem, Mode};
use crate::{HistoryFile, SegmentNo, SegmentSize, TimelineId};

#[derive(Debug, Clone)]
pub struct Settings {
    pub server: ConnectString,
    /// What `synchronous_standby_names` may name.
    pub application_name: String,
    /// Made if it is not there. Without one the server may remove WAL that the stores do not have.
    pub slot: Option<SlotName>,
    /// The slot is dropped when it holds more bytes than this on the server.
    pub slot_limit: Option<u64>,
    /// At least so often the server hears from us.
    pub status_interval: Duration,
    pub stores: Vec<Arc<dyn Store>>,
    pub stores_needed: usize,
    pub compression_level: i32,
}

/// What a receiver does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    Connecting,
    Streaming {
        timeline: TimelineId,
        slot: bool,
    },
    /// Not now, and why. It tries again by itself.
    Waiting {
        why: String,
    },
}

pub(super) type Stop<'a> = Pin<&'a mut (dyn Future<Output = ()> + Send)>;

#[derive(Debug)]
pub struct Receiver {
    settings: Settings,
    window: Arc<Window>,
    phase: watch::Sender<Phase>,
    /// What was reported to the server last.
    reported: Lsn,
    /// The slot was dropped at its limit, and is not made again before the stores have caught up.
    without_slot: bool,
    /// Open segments before this one are no longer on the server.
    gone_before: Option<SegmentNo>,
    /// Where WAL came damaged. Once may have been the link.
    damaged_at: Option<Lsn>,
}

/// What is known of the server at the beginning of a session.
struct Server {
    client: Client,
    system: IdentifySystem,
    identity: Identity,
    path: Arc<HistoryFile>,
}

impl Receiver {
    pub fn new(settings: Settings) -> Receiver {
        let locations = settings.stores.iter().map(|store| store.location().to_owned());
        Receiver {
            window: Arc::new(Window::new(locations)),
            settings,
            phase: watch::Sender::new(Phase::Connecting),
            reported: Lsn::INVALID,
            without_slot: false,
            gone_before: None,
            damaged_at: None,
        }
    }

    /// Live numbers.
    pub fn window(&self) -> Arc<Window> {
        self.window.clone()
    }

    pub fn phase(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    /// Receives until `stop`, through restarts of the server and the stores. An error is one that only a person can
    /// do something about.
    pub async fn run(mut self, stop: impl Future<Output = ()> + Send) -> Result<(), ReceiveError> {
        let mut stop: Stop<'_> = pin!(stop);
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
        loop {
            let began = std::time::Instant::now();
            let error = match Box::pin(self.session(stop.as_mut())).await {
                Ok(()) => return Ok(()),
                Err(ReceiveError::Again) => continue,
                Err(error) if error.fault() == Fault::Retry => error,
                Err(ReceiveError::Tail(TailError::Damaged { end, source }))
                    if self.damaged_at.replace(source.lsn) != Some(source.lsn) =>
                {
                    TailError::Damaged { end, source }.into()
                }
                Err(error) => return Err(error),
            };
            if began.elapsed() > Duration::from_secs(10) {
                backoff.reset();
            }
            let why = crate::tail::words(&error);
            tracing::warn!(error = why, "receiving was interrupted");
            self.phase.send_replace(Phase::Waiting { why });
            let guard = async {
                if let Err(error) = self.guard_slot().await {
                    tracing::debug!(error = crate::tail::words(&error), "the slot was not looked at");
                }
                tokio::time::sleep(backoff.next_delay()).await;
            };
            tokio::select! {
                () = stop.as_mut() => return Ok(()),
                () = guard => {}
            }
        }
    }

    /// One connection, through any number of timelines.
    async fn session(&mut self, mut stop: Stop<'_>) -> Result<(), ReceiveError> {
        let server = tokio::select! {
            () = stop.as_mut() => return Ok(()),
            server = self.connect() => server?,
        };
        let Server {
            mut client,
            system,
            identity,
            path,
        } = server;
        self.window.follow(&path);
        self.window.server(system.flush_lsn);
        let settings = self.tail_settings(identity);
        let ends = survey_all(&self.settings.stores, identity, &path).await?;
        let slot_start = self.ensure_slot(&mut client).await?;
        let (mut timeline, mut first) = match start_of(&ends, &path, self.gone_before, identity.segment_size)
        {
            Some(start) => start,
            None => {
                let from = slot_start.unwrap_or(system.flush_lsn);
                (system.timeline, SegmentNo::holding(from, identity.segment_size))
            }
        };
        loop {
            let own_path = path.up_to(timeline).map_or_else(|| path.clone(), Arc::new);
            let mut tail = Tail::begin(settings.clone(), own_path, first, self.window.clone()).await?;
            self.put_histories(&mut client, &mut tail, &path, timeline)
                .await?;
            if let Some(next) = next_after(&path, timeline)
                && tail.end() >= next.1
            {
                tail.finish().await?;
                (timeline, first) = (next.0, SegmentNo::holding(next.1, identity.segment_size));
                continue;
            }
            if timeline == system.timeline && tail.end() > system.flush_lsn {
                return Err(ReceiveError::Ahead {
                    end: tail.end(),
                    flush: system.flush_lsn,
                });
            }
            let ended = self.stream(client, &mut tail, stop.as_mut()).await;
            let ended = match ended {
                Err(error) if is_removed(&error) => {
                    let from = tail.end();
                    let behind = SegmentNo::holding(from, identity.segment_size).next();
                    // An older hole that the server cannot fill does not keep us from what comes after it.
                    if ends
                        .iter()
                        .any(|end| end.timeline == timeline && end.newest() >= behind)
                    {
                        tracing::error!(
                            %from, "a hole stays in the stores: the server no longer has this WAL"
                        );
                        self.gone_before = Some(behind);
                        return Err(ReceiveError::Again);
                    }
                    return Err(ReceiveError::Removed { timeline, from });
                }
                ended => ended?,
            };
            match ended {
                Ended::Stopped => return Ok(()),
                Ended::Timeline(next_client, next) => {
                    client = *next_client;
                    if path.range_of(next.timeline).is_none() {
                        // It came to be after we asked for the path.
                        return Err(ReceiveError::Again);
                    }
                    tracing::info!(
                        from = %timeline, to = %next.timeline, at = %next.start_lsn, "the server changes its timeline"
                    );
                    timeline = next.timeline;
                    first = SegmentNo::holding(next.start_lsn, identity.segment_size);
                }
            }
        }
    }

    fn tail_settings(&self, identity: Identity) -> tail::Settings {
        tail::Settings {
            stores: self.settings.stores.clone(),
            needed: self.settings.stores_needed,
            level: self.settings.compression_level,
            identity,
        }
    }

    async fn client(&self) -> Result<Client, ReceiveError> {
        let Settings {
            server,
            application_name,
            ..
        } = &self.settings;
        Ok(Client::connect(server, Mode::Physical, application_name).await?)
    }

    async fn connect(&self) -> Result<Server, ReceiveError> {
        self.phase.send_replace(Phase::Connecting);
        let mut client = self.client().await?;
        let system = client.identify_system().await?;
        let text = client.show("wal_segment_size").await?;
        let segment_size = parse_size(&text).ok_or(ReceiveError::SegmentSize(text))?;
        let path = history(&mut client, system.timeline).await?;
        Ok(Server {
            identity: Identity {
                system_id: system.system_id,
                segment_size,
            },
            path: Arc::new(path),
            client,
            system,
        })
    }

    /// Histories before segments: who reads a timeline has to know where it comes from.
    async fn put_histories(
        &self,
        client: &mut Client,
        tail: &mut Tail,
        path: &HistoryFile,
        up_to: TimelineId,
    ) -> Result<(), ReceiveError> {
        let ancestors = path.ancestors().iter().map(|ancestor| ancestor.timeline);
        let timelines: Vec<_> = ancestors.chain([path.timeline()]).collect();
        for timeline in timelines {
            if timeline.as_u32() == 1 || timeline > up_to {
                continue;
            }
            match client.timeline_history(timeline).await {
                Ok(history) => tail.put_history(timeline, history.content).await?,
                Err(error)
                    if error
                        .server_error()
                        .is_some_and(|error| error.code == FILE_MISSING) =>
                {
                    tracing::warn!(%timeline, "the server has no history of a timeline it comes from");
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// undefined_file
const FILE_MISSING: &str = "58P01";

fn is_removed(error: &ReceiveError) -> bool {
    matches!(error, ReceiveError::Walsender(error)
        if error.server_error().is_some_and(|error| error.code == FILE_MISSING))
}

async fn history(client: &mut Client, timeline: TimelineId) -> Result<HistoryFile, ReceiveError> {
    if timeline.as_u32() == 1 {
        return Ok(HistoryFile::root(timeline));
    }
    let file = client.timeline_history(timeline).await?;
    let text = String::from_utf8_lossy(&file.content);
    HistoryFile::parse(timeline, &text).map_err(|source| ReceiveError::History { timeline, source })
}

/// As `SHOW wal_segment_size` says it.
fn parse_size(text: &str) -> Option<SegmentSize> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let shift = match unit {
        "MB" => 20,
        "GB" => 30,
        "kB" => 10,
        _ => return None,
    };
    let bytes = number.parse::<u32>().ok()?.checked_mul(1 << shift)?;
    SegmentSize::new(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_the_server_shows_them() {
        for (text, bytes) in [("16MB", 1 << 24), ("1MB", 1 << 20), ("1GB", 1 << 30)] {
            assert_eq!(parse_size(text), SegmentSize::new(bytes), "{text}");
        }
        for text in ["", "16", "MB", "3MB", "8GB", "99999999999MB"] {
            assert_eq!(parse_size(text), None, "{text}");
        }
    }
}
