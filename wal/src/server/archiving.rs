//! Does what the server writes come into the stores?

use std::sync::Arc;
use std::time::{Duration, Instant};

use skytide_sql::conn::Session;

use super::error::{Doing, ServerError};
use super::queries;
use crate::WalFileName;
use crate::store::{Store, layout};

const LOOK: Duration = Duration::from_millis(20);

/// A segment that was ended for this, and is in every store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    pub segment: String,
    pub took: Duration,
}

/// Ends the segment that is being written, with a record of ours in it, and names it.
pub async fn ends_segment(session: &Session) -> Result<WalFileName, ServerError> {
    const DOING: &str = "end the segment (pg_switch_wal)";
    session.execute(queries::MARK, &[]).await.doing(DOING)?;
    let row = session.query_one(queries::SWITCH, &[]).await.doing(DOING)?;
    let name: String = row.get(0);
    name.parse()
        .map_err(|_| ServerError::Answer("the name of a segment"))
}

/// Ends a segment and waits until every store has it.
pub async fn prove(
    session: &Session,
    stores: &[Arc<dyn Store>],
    patience: Duration,
) -> Result<Proof, ServerError> {
    let began = Instant::now();
    let segment = ends_segment(session).await?;
    let object = layout::object_of(segment);
    for store in stores {
        while store.head(&object).await?.is_none() {
            if began.elapsed() > patience {
                return Err(ServerError::NotArchived {
                    segment: segment.to_string(),
                    location: store.location().to_owned(),
                    waited: patience,
                    failed: last_failure(session).await?,
                });
            }
            tokio::time::sleep(LOOK).await;
        }
    }
    Ok(Proof {
        segment: segment.to_string(),
        took: began.elapsed(),
    })
}

async fn last_failure(session: &Session) -> Result<Option<String>, ServerError> {
    let row = session.query_one(queries::ARCHIVER, &[]).await;
    let row = row.doing("ask the archiver (pg_stat_archiver)")?;
    let (failed, ago): (Option<String>, Option<f64>) = (row.get(1), row.get(2));
    Ok(failed.map(|name| match ago {
        Some(ago) => format!("{name} failed {ago:.0} s ago"),
        None => format!("{name} failed"),
    }))
}

/// What became of a segment that nobody ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Idle {
    /// Something was archived within the interval.
    Busy {
        since: Duration,
    },
    /// No transaction has begun since the last time.
    Unchanged,
    Switched {
        segment: String,
    },
}

/// Ends the segment if nothing was archived for `interval`, and a transaction has begun since `last_xid`. Returns the next
/// transaction too, which is `last_xid` next time.
pub async fn switch_if_idle(
    session: &Session,
    interval: Duration,
    last_xid: Option<&str>,
) -> Result<(Idle, String), ServerError> {
    let row = session.query_one(queries::IDLE, &[]).await;
    let row = row.doing("ask when WAL was archived (pg_stat_archiver)")?;
    let (seconds, xid): (f64, String) = (row.get(0), row.get(1));
    if seconds < interval.as_secs_f64() {
        let before = last_xid.unwrap_or_default().to_owned();
        let since = Duration::try_from_secs_f64(seconds).unwrap_or_default();
        return Ok((Idle::Busy { since }, before));
    }
    if last_xid == Some(xid.as_str()) {
        return Ok((Idle::Unchanged, xid));
    }
    let row = session.query_one(queries::SWITCH, &[]).await;
    let segment = row.doing("end the segment (pg_switch_wal)")?.get(0);
    Ok((Idle::Switched { segment }, xid))
}
