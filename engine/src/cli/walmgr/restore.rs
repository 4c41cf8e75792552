//! `restore-wal`: what `restore_command` runs.
//!
//! PostgreSQL takes 0 as "it is there", 1 to 125 as "it does not exist", where recovery ends, and anything above as
//! "stop" (documentation, `restore_command`). So every trouble has to be above, except on a standby, which asks
//! again by itself and can stream meanwhile.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use skytide_wal::backup::recovery::has_target;
use skytide_wal::control;
use skytide_wal::restore::{Origin, RestoreError, Restorer, Served, deliver, server_has_more};
use skytide_wal::store::StoreError;
use skytide_wal::store::identity::IdentityError;
use skytide_wal::{SegmentName, WalFileName};
use tracing::{info, warn};

use super::client::{self, Reply};
use super::{store, wire::Ask};
use crate::causes;
use crate::cli::Outcome;
use crate::config::settings::WalmgrSettings;

pub const HELP: &str = "\
Exit codes: 0 the file is there; 1 no store has it; 255 it is damaged, the stores cannot be asked, or they have later \
segments of the same timeline, so recovery has to stop. So it is with a store of another cluster than that of the data directory the file goes to. Where standby.signal \
is, stores that cannot be asked, another cluster's stores and a configuration that cannot be read are exit code 1: the \
standby tries again.

Example:
  restore_command = 'skytide walmgr /etc/skytide/wal.ini restore-wal %f %p'";

/// Above 125: recovery stops.
pub const STOP: u8 = 255;
/// Recovery goes on without the file.
pub const MISSING: u8 = 1;

const RETRY: Duration = Duration::from_millis(500);

#[derive(clap::Args, Debug)]
pub struct RestoreArgs {
    /// The file's name (%f)
    name: String,
    /// Where to write it (%p)
    path: PathBuf,
    /// The oldest file that is still needed (%r); not used
    #[arg(value_name = "RESTART")]
    _restart: Option<String>,
    /// Where the daemon listens, if not beside the configuration file
    #[arg(long)]
    socket: Option<PathBuf>,
}

/// An exit code that PostgreSQL is waiting for, with what a person should know.
#[derive(Debug)]
pub struct Answer {
    pub code: u8,
    pub message: String,
}

pub async fn run(
    load: impl FnOnce() -> anyhow::Result<WalmgrSettings>,
    args: &RestoreArgs,
) -> anyhow::Result<Outcome> {
    let answer = match answer(load, args).await {
        Ok(answer) => answer,
        // Such as a configuration that somebody is writing right now.
        Err(error) => Answer {
            code: trouble(args.name.parse().ok(), &args.path),
            message: format!("{error:#}"),
        },
    };
    if !answer.message.is_empty() {
        // Nobody to tell when standard error is closed; the exit code says it too.
        let _ = writeln!(std::io::stderr(), "{}", answer.message);
    }
    Ok(Outcome::Code(answer.code))
}

async fn answer(
    load: impl FnOnce() -> anyhow::Result<WalmgrSettings>,
    args: &RestoreArgs,
) -> anyhow::Result<Answer> {
    if let Some(socket) = &args.socket
        && let Some(request) = client::request(Ask::Restore, args.name.as_ref(), args.path.as_os_str())
    {
        let (code, message) = match client::call(socket, &request) {
            Reply::Answer(code, message) => (code, message),
            Reply::Silent => client::unrestored(socket, &request),
            Reply::Nobody => return by_itself(load, args).await,
        };
        return Ok(Answer { code, message });
    }
    by_itself(load, args).await
}

async fn by_itself(
    load: impl FnOnce() -> anyhow::Result<WalmgrSettings>,
    args: &RestoreArgs,
) -> anyhow::Result<Answer> {
    let name: WalFileName = super::archive::parse_name(&args.name)?;
    let path = std::path::absolute(&args.path).context("find the target")?;
    let settings = load()?;
    let cluster = cluster_of(&path, settings.data_dir.as_deref());
    let restorer = Restorer::new(store::open_all(&settings)?, cluster);
    let fetch = || async {
        let found = restorer.fetch(name).await.map_err(Arc::new)?.map(Arc::new);
        let behind = async |segment| restorer.behind(segment).await.map_err(Arc::new);
        unless_hole(name, &path, found, behind).await
    };
    let patience = patience(settings.restore_timeout, name, &path);
    Ok(finish(name, &path, patiently(patience, fetch).await))
}

/// For a daemon, which is asked for several clusters: [`cluster_of`] says which.
pub fn restorer(settings: &WalmgrSettings) -> anyhow::Result<Restorer> {
    Ok(Restorer::new(store::open_all(settings)?, None))
}

/// The cluster that recovers: of the data directory whose `pg_wal` the file goes to, else of the configured one. `None` if
/// neither can be read.
pub fn cluster_of(target: &Path, configured: Option<&Path>) -> Option<u64> {
    let recovers = target.parent().filter(|dir| dir.ends_with("pg_wal"));
    let recovers = recovers.and_then(Path::parent);
    let dirs = recovers.into_iter().chain(configured);
    let mut controls = dirs.map(|dir| dir.join(control::PATH));
    controls.find_map(|path| Some(store::read_control(&path).ok()?.system_id))
}

/// What was found, unless recovery would take a hole in the WAL for its end. A standby asks again by itself, and so often
/// that looking for what is behind would be dear. A server that was told where to end does not end elsewhere, and reads
/// ahead of that.
pub async fn unless_hole(
    name: WalFileName,
    target: &Path,
    found: Option<Arc<Served>>,
    behind: impl AsyncFnOnce(SegmentName) -> Result<Option<SegmentName>, Arc<RestoreError>>,
) -> Result<Option<Arc<Served>>, Arc<RestoreError>> {
    let whole = found
        .as_ref()
        .is_some_and(|served| served.origin == Origin::Whole);
    match name {
        WalFileName::Segment(missing) if !whole && ends_with_the_wal(target) => {
            match behind(missing).await? {
                Some(behind) => Err(Arc::new(RestoreError::Hole { missing, behind })),
                None => Ok(found),
            }
        }
        _ => Ok(found),
    }
}

/// How long it is tried to reach the stores. A standby asks for a segment again by itself, and clients wait for the answer
/// when it is promoted; of a history it is told only once that there is none.
pub fn patience(timeout: Duration, name: WalFileName, target: &Path) -> Duration {
    const HISTORY: Duration = Duration::from_secs(1);
    match name {
        WalFileName::History(_) if serves_standby(target) || is_over(name, target) => timeout.min(HISTORY),
        _ if serves_standby(target) => Duration::ZERO,
        _ => timeout,
    }
}

/// Tries again while a store cannot be reached, or one that several archive to has a later segment first.
pub async fn patiently<T, F: Future<Output = Result<T, Arc<RestoreError>>>>(
    timeout: Duration,
    mut fetch: impl FnMut() -> F,
) -> Result<T, Arc<RestoreError>> {
    let end = Instant::now() + timeout;
    loop {
        match fetch().await {
            Err(error) if is_transient(&error) && Instant::now() + RETRY < end => {
                tokio::time::sleep(RETRY).await;
            }
            done => return done,
        }
    }
}

fn is_transient(error: &RestoreError) -> bool {
    match error {
        RestoreError::Store(error) | RestoreError::Identity(IdentityError::Store(error)) => {
            // A file system that comes back may say anything meanwhile.
            error.is_transient() || matches!(error, StoreError::File { .. })
        }
        RestoreError::Hole { .. } => true,
        _ => false,
    }
}

/// Writes the file, and says how to leave.
pub fn finish(
    name: WalFileName,
    target: &Path,
    fetched: Result<Option<Arc<Served>>, Arc<RestoreError>>,
) -> Answer {
    let served = match fetched {
        Ok(Some(served)) => served,
        Ok(None) => {
            return Answer {
                code: MISSING,
                message: String::new(),
            };
        }
        Err(error) => {
            let code = match error.is_damage() {
                true if !is_over(name, target) => STOP,
                _ => trouble(Some(name), target),
            };
            let message = format!("{name} was not restored: {}", causes::chain(&*error));
            warn!(code, "{message}");
            return Answer { code, message };
        }
    };
    if server_has_more(&served, name, target) {
        info!(%name, from = served.location, "not restored: the server's own file goes further");
        return Answer {
            code: MISSING,
            message: String::new(),
        };
    }
    if let Err(error) = deliver(&served, target) {
        return Answer {
            code: trouble(Some(name), target),
            message: format!("{name} was not restored: {}", causes::chain(&error)),
        };
    }
    let from = &served.location;
    match served.origin {
        Origin::Whole => info!(%name, from, "restored"),
        Origin::Partial(end) => info!(%name, from, %end, "restored as far as it goes"),
    }
    Answer {
        code: 0,
        message: String::new(),
    }
}

/// The exit code of what may be better the next time: only a standby asks again.
pub fn trouble(name: Option<WalFileName>, target: &Path) -> u8 {
    match serves_standby(target) || name.is_some_and(|name| is_over(name, target)) {
        true => MISSING,
        false => STOP,
    }
}

/// The server has chosen its new timeline and removed its signal file, and asks for the old one's history only to copy it
/// into the new one's (`writeTimeLineHistory`); it has that itself. Were it stopped here, it would start again on the old
/// timeline, as a primary.
fn is_over(name: WalFileName, target: &Path) -> bool {
    let data_dir = target.parent().and_then(Path::parent);
    let has = |dir: &Path, file: &str| dir.join(file).exists();
    matches!(name, WalFileName::History(_))
        && data_dir.is_some_and(|dir| {
            has(dir, control::PATH) && !has(dir, "standby.signal") && !has(dir, "recovery.signal")
        })
}

/// Recovery is over where no file is left.
fn ends_with_the_wal(target: &Path) -> bool {
    let data_dir = target.parent().and_then(Path::parent);
    !serves_standby(target) && !data_dir.is_some_and(has_target)
}

/// PostgreSQL names a file in `pg_wal`, and keeps the signal file above it.
fn serves_standby(target: &Path) -> bool {
    let data_dir = target.parent().and_then(Path::parent);
    data_dir.is_some_and(|dir| dir.join("standby.signal").exists())
}
