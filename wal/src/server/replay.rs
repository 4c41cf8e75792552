//! A standby's replay is held and let go.

use std::time::{Duration, Instant};

use skytide_sql::Lsn;
use skytide_sql::conn::Session;

use super::error::{Doing, ServerError};
use super::queries;

const LOOK: Duration = Duration::from_millis(20);
const DOING: &str = "ask how replay is";

/// Where replay stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replay {
    pub state: String,
    /// Behind the last record that was replayed.
    pub lsn: Option<Lsn>,
}

/// Holds replay, and waits until it stands still.
pub async fn pause(session: &Session, patience: Duration) -> Result<Replay, ServerError> {
    only_standby(session).await?;
    session
        .execute(queries::PAUSE, &[])
        .await
        .doing("hold replay (pg_wal_replay_pause)")?;
    until(session, "paused", patience).await
}

/// Lets replay go on.
pub async fn resume(session: &Session, patience: Duration) -> Result<Replay, ServerError> {
    only_standby(session).await?;
    session
        .execute(queries::RESUME, &[])
        .await
        .doing("let replay go on (pg_wal_replay_resume)")?;
    until(session, "not paused", patience).await
}

pub(super) async fn is_standby(session: &Session) -> Result<bool, ServerError> {
    let row = session.query_one(queries::IN_RECOVERY, &[]).await;
    Ok(row.doing(DOING)?.get(0))
}

async fn only_standby(session: &Session) -> Result<(), ServerError> {
    match is_standby(session).await? {
        true => Ok(()),
        false => Err(ServerError::NoStandby),
    }
}

async fn until(session: &Session, wanted: &'static str, patience: Duration) -> Result<Replay, ServerError> {
    let row = session
        .query_one(
            "select pg_catalog.current_setting('server_version_num')::int4 >= 140000",
            &[],
        )
        .await
        .doing(DOING)?;
    let question = match row.get::<_, bool>(0) {
        true => queries::PAUSE_STATE,
        false => queries::PAUSED,
    };
    let began = Instant::now();
    loop {
        let row = session.query_one(question, &[]).await.doing(DOING)?;
        let (state, lsn): (String, Option<String>) = (row.get(0), row.get(1));
        if state == wanted {
            let lsn = lsn.and_then(|lsn| lsn.parse().ok());
            return Ok(Replay { state, lsn });
        }
        if began.elapsed() > patience {
            return Err(ServerError::Replay {
                wanted,
                found: state,
                waited: patience,
            });
        }
        tokio::time::sleep(LOOK).await;
    }
}
