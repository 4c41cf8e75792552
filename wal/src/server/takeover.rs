//! A standby takes over, from its own host.
//!
//! In order: what the stores have is replayed, so that nothing is left behind there; the server is told to promote; it
//! has taken over when it gives out a transaction id. One that lets nobody connect is in `closed`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use skytide_sql::Lsn;
use skytide_sql::conn::{ConnectError, ConnectString, Session, connect};
use skytide_sql::fault::Fault;

use super::error::{Doing, ServerError};
use super::pidfile::Postmaster;
use super::{closed, primary, queries, replay};
use crate::durable::Attach;
use crate::store::Store;
use crate::succession::successor_of;
use crate::tail::look;
use crate::{HistoryFile, TimelineId, WalFileName};

pub(super) const LOOK: Duration = Duration::from_millis(20);
const DOING: &str = "ask the standby how far it is";

#[derive(Debug, Clone)]
pub struct Takeover {
    /// The standby's.
    pub data_dir: PathBuf,
    pub server: ConnectString,
    /// The primary's, which is asked beside the one that the standby's own `primary_conninfo` names.
    pub primary: Option<ConnectString>,
    pub application_name: String,
    pub stores: Vec<Arc<dyn Store>>,
    /// For the stores' WAL to be replayed, and again for the promotion.
    pub patience: Duration,
    /// Though the primary lives, though a store cannot be asked, though its WAL is not replayed, though the standby was
    /// left behind by its successor.
    pub force: bool,
}

/// How a timeline ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ending {
    pub timeline: TimelineId,
    pub lsn: Lsn,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TookOver {
    /// It took writes before it was asked.
    pub already: bool,
    /// The timeline it writes.
    pub timeline: TimelineId,
    /// Where it left the one before; `None`: it writes its first one.
    pub left: Option<Ending>,
    /// The furthest that a store had, and which.
    pub stored: Option<(Lsn, String)>,
    /// Until the stores' WAL was replayed.
    pub replayed_in: Duration,
    /// From the promotion to the first write.
    pub promoted_in: Duration,
}

struct Position {
    in_recovery: bool,
    replayed: Option<Lsn>,
}

pub async fn take_over(settings: &Takeover) -> Result<TookOver, ServerError> {
    let not_running = || ServerError::NotRunning {
        data_dir: settings.data_dir.clone(),
    };
    let began = Instant::now();
    let session = loop {
        let postmaster = Postmaster::find(&settings.data_dir)?.ok_or_else(not_running)?;
        match connect(&settings.server, &settings.application_name).await {
            Ok(session) => break session,
            Err(_) if postmaster.refuses_connections() => {
                return Box::pin(closed::take_over(settings, postmaster)).await;
            }
            // It starts, or replays up to a consistent place.
            Err(error) if error.fault() == Fault::Retry && began.elapsed() < settings.patience => {
                tokio::time::sleep(LOOK).await;
            }
            Err(error) => return Err(error.into()),
        }
    };
    let row = session.query_one(queries::STANDBY, &[]).await.doing(DOING)?;
    let (in_recovery, receiver, restore_command): (bool, Option<String>, String) =
        (row.get(0), row.get(2), row.get(3));
    let (system_id, conninfo): (i64, Option<String>) = (row.get(4), row.get(5));
    let system_id = system_id.cast_unsigned();
    if !in_recovery {
        let timeline = writes(&session).await?;
        return Ok(TookOver {
            already: true,
            timeline,
            left: left(&settings.data_dir, timeline)?,
            stored: None,
            replayed_in: Duration::ZERO,
            promoted_in: Duration::ZERO,
        });
    }
    if !settings.force {
        if receiver.as_deref() == Some("streaming") {
            return Err(ServerError::PrimaryLives);
        }
        no_primary(settings, conninfo.as_deref(), system_id).await?;
    }
    // What waits to be replayed would be given up.
    replay::resume(&session, settings.patience).await?;
    let stored = furthest(settings, system_id).await?;
    let began = Instant::now();
    was_not_left(&session, settings).await?;
    if let Some((lsn, location)) = &stored {
        replays(&session, settings, *lsn, location, &restore_command).await?;
        // The WAL that it has replayed meanwhile may be that of the timeline that was left.
        was_not_left(&session, settings).await?;
    }
    let replayed_in = began.elapsed();
    fail::fail_point!("takeover::replayed");
    let began = Instant::now();
    session
        .execute(queries::PROMOTE, &[])
        .await
        .doing("promote the standby (pg_promote)")?;
    drop(session);
    done(settings, stored, replayed_in, began).await
}

/// Refuses while the primary answers: that nothing streams may only mean that the connection is broken, or not there yet.
/// `conninfo` is the standby's own.
pub(super) async fn no_primary(
    settings: &Takeover,
    conninfo: Option<&str>,
    system_id: u64,
) -> Result<(), ServerError> {
    let own: Option<ConnectString> = match conninfo.filter(|text| !text.is_empty()).map(str::parse) {
        Some(Err(error)) if settings.primary.is_none() => return Err(ServerError::Conninfo(error)),
        Some(Err(_)) | None => None,
        Some(Ok(own)) => Some(own),
    };
    let primaries: Vec<&ConnectString> = settings.primary.iter().chain(&own).collect();
    if primaries.is_empty() {
        tracing::warn!("nobody was asked whether the primary lives: primary_conninfo is not set");
    }
    primary::is_gone(&primaries, &settings.application_name, system_id).await
}

/// What the standby has replayed is WAL of whoever went on from its timeline, as far as the stores know of one.
async fn was_not_left(session: &Session, settings: &Takeover) -> Result<(), ServerError> {
    let row = session.query_one(queries::PLACE, &[]).await.doing(DOING)?;
    let (in_recovery, replayed, timeline): (bool, Option<String>, Option<i32>) =
        (row.get(0), row.get(1), row.get(2));
    let replayed = replayed.and_then(|lsn| lsn.parse().ok());
    let timeline = timeline.and_then(|timeline| u32::try_from(timeline).ok());
    match (timeline.and_then(TimelineId::new), replayed) {
        (Some(timeline), Some(replayed)) if in_recovery => {
            check_successor(settings, timeline, replayed).await
        }
        _ => Ok(()),
    }
}

/// Positions alone would not tell: the successor's WAL may end behind or before what the standby has.
pub(super) async fn check_successor(
    settings: &Takeover,
    timeline: TimelineId,
    replayed: Lsn,
) -> Result<(), ServerError> {
    for store in &settings.stores {
        let location = store.location().to_owned();
        let successor = match successor_of(&**store, timeline).await {
            Ok(successor) => successor,
            Err(source) if settings.force => {
                let error: &dyn std::error::Error = &source;
                tracing::warn!(location, error, "a store cannot be asked who went on");
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        let Some(successor) = successor.filter(|successor| successor.lsn < replayed) else {
            continue;
        };
        if settings.force {
            let (newer, left) = (successor.timeline, successor.lsn);
            tracing::warn!(%timeline, %replayed, %newer, %left, location, "somebody else took over before this standby");
            continue;
        }
        return Err(ServerError::LeftBehind {
            timeline,
            replayed,
            successor,
            location,
        });
    }
    Ok(())
}

/// Waits for the first write.
pub(super) async fn done(
    settings: &Takeover,
    stored: Option<(Lsn, String)>,
    replayed_in: Duration,
    began: Instant,
) -> Result<TookOver, ServerError> {
    loop {
        let error = match connect(&settings.server, &settings.application_name).await {
            Ok(session) if !replay::is_standby(&session).await? => {
                let timeline = writes(&session).await?;
                return Ok(TookOver {
                    already: false,
                    timeline,
                    left: left(&settings.data_dir, timeline)?,
                    stored,
                    replayed_in,
                    promoted_in: began.elapsed(),
                });
            }
            Ok(_) => None,
            Err(error) => Some(error),
        };
        let retry = error
            .as_ref()
            .is_none_or(|error: &ConnectError| error.fault() == Fault::Retry);
        match error {
            _ if retry && began.elapsed() < settings.patience => tokio::time::sleep(LOOK).await,
            Some(error) => return Err(error.into()),
            None => {
                return Err(ServerError::NotPromoted {
                    waited: settings.patience,
                });
            }
        }
    }
}

/// The furthest place that any store has WAL up to.
pub(super) async fn furthest(
    settings: &Takeover,
    system_id: u64,
) -> Result<Option<(Lsn, String)>, ServerError> {
    let mut furthest: Option<(Lsn, String)> = None;
    for store in &settings.stores {
        let location = store.location().to_owned();
        let found = match look(&**store).await {
            Ok(found) => found,
            Err(source) if settings.force => {
                let error: &dyn std::error::Error = &source;
                tracing::warn!(location, error, "a store cannot be asked what it has");
                continue;
            }
            Err(source) => return Err(ServerError::NoAnswer { location, source }),
        };
        let Some(found) = found else { continue };
        if found.identity.system_id != system_id {
            return Err(ServerError::OtherCluster {
                standby: system_id,
                store: found.identity.system_id,
                location,
            });
        }
        if furthest.as_ref().is_none_or(|(lsn, _)| *lsn < found.boundary) {
            furthest = Some((found.boundary, location));
        }
    }
    Ok(furthest)
}

/// Waits until the standby has replayed up to `stored`.
async fn replays(
    session: &Session,
    settings: &Takeover,
    stored: Lsn,
    location: &str,
    restore_command: &str,
) -> Result<(), ServerError> {
    let began = Instant::now();
    loop {
        let position = position(session).await?;
        let replayed = position.replayed.unwrap_or(Lsn::INVALID);
        if replayed >= stored || !position.in_recovery {
            return Ok(());
        }
        if began.elapsed() > settings.patience {
            if settings.force {
                tracing::warn!(%replayed, %stored, location, "WAL of a store is not replayed");
                return Ok(());
            }
            return Err(ServerError::Lacks {
                replayed,
                stored,
                location: location.to_owned(),
                restore_command: restore_command.to_owned(),
            });
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn position(session: &Session) -> Result<Position, ServerError> {
    let row = session.query_one(queries::REPLAYED, &[]).await.doing(DOING)?;
    let replayed: Option<String> = row.get(1);
    Ok(Position {
        in_recovery: row.get(0),
        replayed: replayed.and_then(|lsn| lsn.parse().ok()),
    })
}

/// A write, and the timeline it is on.
async fn writes(session: &Session) -> Result<TimelineId, ServerError> {
    let row = session.query_one(queries::WRITE, &[]).await;
    let row = row.doing("write a transaction (txid_current)")?;
    match row.get::<_, &str>(1).parse() {
        Ok(WalFileName::Segment(segment)) => Ok(segment.timeline()),
        _ => Err(ServerError::Answer("the name of a segment")),
    }
}

/// Where the timeline before was left, by the history file beside the WAL.
fn left(data_dir: &Path, timeline: TimelineId) -> Result<Option<Ending>, ServerError> {
    if timeline.as_u32() == 1 {
        return Ok(None);
    }
    let path = data_dir.join(format!("pg_wal/{}", WalFileName::History(timeline)));
    let text = std::fs::read_to_string(&path).to("read", &path)?;
    let history = HistoryFile::parse(timeline, &text).map_err(|_| ServerError::Answer("a history file"))?;
    Ok(history.ancestors().last().map(|ancestor| Ending {
        timeline: ancestor.timeline,
        lsn: history.begin(),
    }))
}
