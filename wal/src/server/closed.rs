//! A standby that lets nobody connect (`hot_standby = off`) takes over.
//!
//! It cannot be asked: its processes and the primary say whether that lives, its `pg_wal` how far it is. It is told by
//! `promote` in its data directory and a signal, as `pg_ctl promote` does, and its control file says when it is done.

use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use skytide_sql::Lsn;

use super::error::ServerError;
use super::pidfile::Postmaster;
use super::takeover::{LOOK, Takeover, TookOver, check_successor, done, furthest};
use super::{primary, takeover};
use crate::control::{self, ClusterState, ControlFile};
use crate::durable::{self, Attach};
use crate::ship::{self, DeadServer};

/// Its WAL is read anew each time.
const LOOK_AT_WAL: Duration = Duration::from_millis(200);

pub(super) async fn take_over(settings: &Takeover, postmaster: Postmaster) -> Result<TookOver, ServerError> {
    let system_id = ship::control(&settings.data_dir)
        .map_err(|error| ServerError::OwnWal(Box::new(error)))?
        .system_id;
    if !settings.force {
        no_primary(settings, &postmaster, system_id).await?;
    }
    let stored = furthest(settings, system_id).await?;
    let began = Instant::now();
    has(settings, stored.as_ref()).await?;
    let replayed_in = began.elapsed();
    let began = Instant::now();
    durable::replace(&settings.data_dir.join("promote"), b"")?;
    let path = settings.data_dir.join("postmaster.pid");
    let pid = Pid::from_raw(postmaster.pid).ok_or(ServerError::Answer("a process"))?;
    kill_process(pid, Signal::USR1)
        .map_err(std::io::Error::from)
        .to("signal the process in", &path)?;
    while state(&settings.data_dir)? != Some(ClusterState::InProduction) {
        if began.elapsed() > settings.patience {
            return Err(ServerError::NotPromoted {
                waited: settings.patience,
            });
        }
        tokio::time::sleep(LOOK).await;
    }
    done(settings, stored, replayed_in, began).await
}

/// Refuses while there is a primary, and where nobody can say.
async fn no_primary(settings: &Takeover, postmaster: &Postmaster, system_id: u64) -> Result<(), ServerError> {
    let receiver = Receiver::of(&processes(postmaster.pid));
    if receiver == Receiver::Streams {
        return Err(ServerError::PrimaryLives);
    }
    let own = primary::conninfo_in(&settings.data_dir);
    if settings.primary.is_none() && own.is_none() && receiver == Receiver::Unknown {
        return Err(ServerError::PrimaryUnknown);
    }
    takeover::no_primary(settings, own.as_deref(), system_id).await
}

/// What the titles of a server's processes say of its walreceiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Receiver {
    Streams,
    Not,
    Unknown,
}

impl Receiver {
    /// One whose title says nothing more tries to connect, or has received nothing yet, or keeps its title
    /// (`update_process_title`).
    fn of(titles: &[String]) -> Receiver {
        let receiver = titles.iter().find(|title| title.contains("walreceiver"));
        match receiver {
            Some(title) if title.contains("streaming") => Receiver::Streams,
            None if !titles.is_empty() => Receiver::Not,
            _ => Receiver::Unknown,
        }
    }
}

/// The titles of the processes that a process has started; none if they cannot be seen.
fn processes(parent: i32) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    let child = |path: &Path| {
        let stat = std::fs::read_to_string(path.join("stat")).ok()?;
        // The name before it may have parentheses itself.
        let (_, rest) = stat.rsplit_once(") ")?;
        let of: i32 = rest.split(' ').nth(1)?.parse().ok()?;
        let title = std::fs::read(path.join("cmdline")).ok()?;
        (of == parent).then(|| String::from_utf8_lossy(&title).replace('\0', " "))
    };
    entries
        .flatten()
        .filter_map(|entry| child(&entry.path()))
        .collect()
}

/// Waits until the standby has the stores' WAL on its disk: it replays all of that before it takes writes.
async fn has(settings: &Takeover, stored: Option<&(Lsn, String)>) -> Result<(), ServerError> {
    let began = Instant::now();
    loop {
        let read = DeadServer::inspect(settings.data_dir.clone(), true).await;
        let late = began.elapsed() > settings.patience;
        let error = match (read, stored) {
            (Ok(own), Some((stored, location))) if own.end_lsn() < *stored => ServerError::Lacks {
                replayed: own.end_lsn(),
                stored: *stored,
                location: location.clone(),
                restore_command: "it lets nobody ask".to_owned(),
            },
            (Ok(own), _) => return check_successor(settings, own.path.timeline(), own.end_lsn()).await,
            // It is being written.
            (Err(error), _) => ServerError::OwnWal(Box::new(error)),
        };
        if late && settings.force {
            let error: &dyn std::error::Error = &error;
            tracing::warn!(error, "the standby takes over without what the stores have");
            return Ok(());
        }
        if late {
            return Err(error);
        }
        tokio::time::sleep(LOOK_AT_WAL).await;
    }
}

/// `None`: the file is just being written.
fn state(data_dir: &Path) -> Result<Option<ClusterState>, ServerError> {
    let path = data_dir.join(control::PATH);
    let bytes = std::fs::read(&path).to("read", &path)?;
    Ok(ControlFile::parse(&bytes).ok().map(|control| control.state))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn process_titles_say_whether_a_standby_streams() {
        let of = |titles: &[&str]| {
            let titles: Vec<String> = titles.iter().map(ToString::to_string).collect();
            Receiver::of(&titles)
        };
        let recovering = "postgres: main: startup recovering 000000010000000000000003";
        let streams = "postgres: main: walreceiver streaming 0/3000148";
        assert_eq!(of(&[recovering, streams]), Receiver::Streams);
        assert_eq!(of(&[recovering]), Receiver::Not);
        assert_eq!(of(&[recovering, "postgres: walreceiver "]), Receiver::Unknown);
        assert_eq!(of(&[]), Receiver::Unknown, "nobody may see them");
    }
}
