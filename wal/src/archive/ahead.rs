//! Archiving what PostgreSQL will ask for next, so that the answer is ready when it does.
//!
//! PostgreSQL asks for one file at a time and waits. Which files come is known: each has a `.ready` file in
//! `pg_wal/archive_status`. Those are only looked at, never renamed; PostgreSQL alone says what is done.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use tokio::sync::Notify;

use super::{ArchiveError, Archiver, Report, Source};
use crate::WalFileName;
use crate::durable::{Attach, FileError};

/// The list of files that are ready is read again after this time, or when it is used up.
const LIST_AGE: Duration = Duration::from_secs(1);

/// Files worked on at the same time: two on the processors, one on its way to the disk or the network.
const AT_ONCE: usize = 3;

type Outcome = Result<Arc<Report>, Arc<ArchiveError>>;
type Running = Shared<BoxFuture<'static, Outcome>>;

/// What was done, since the start.
#[derive(Debug, Default)]
pub struct AheadFigures {
    /// Files that are safe.
    pub files: AtomicU64,
    /// Bytes of those.
    pub bytes: AtomicU64,
    /// Bytes that those take in a store.
    pub packed_bytes: AtomicU64,
    /// Attempts that failed.
    pub failures: AtomicU64,
    /// Times a store was left behind, which the settings allow.
    pub behind: AtomicU64,
    /// Requests that found their file finished.
    pub hits: AtomicU64,
    /// Files that are ready and not safe yet, when they were counted last.
    pub backlog: AtomicU64,
}

/// Archives files when asked, and the ones after them before that.
#[derive(Debug, Clone)]
pub struct Ahead(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    archiver: Archiver,
    /// Files begun before they are asked for; 0 for none.
    window: usize,
    figures: Arc<AheadFigures>,
    left_behind: Notify,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    begun: HashMap<WalFileName, Begun>,
    /// Files that are ready and not begun, in PostgreSQL's order.
    next: VecDeque<WalFileName>,
    /// Answered, and not marked as done by PostgreSQL when it was listed last.
    answered: HashSet<WalFileName>,
    listed: Option<Instant>,
}

struct Begun {
    running: Running,
    finished: bool,
    of: Identity,
}

/// Which file it is: servers that write the same timeline have files of the same names.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Identity {
    path: PathBuf,
    device: u64,
    inode: u64,
    bytes: u64,
    written: (i64, i64),
}

impl Identity {
    /// `None`: there is no such file, and the work on it will say so.
    fn of(source: &Source) -> Option<Identity> {
        let found = std::fs::metadata(&source.path).ok()?;
        Some(Identity {
            path: source.path.clone(),
            device: found.dev(),
            inode: found.ino(),
            bytes: found.len(),
            written: (found.mtime(), found.mtime_nsec()),
        })
    }
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} begun, {} known to come", self.begun.len(), self.next.len())
    }
}

impl Ahead {
    pub fn new(archiver: Archiver, window: usize) -> Ahead {
        Ahead::counting(archiver, window, Arc::default())
    }

    /// One that goes on counting where another one ends.
    pub fn counting(archiver: Archiver, window: usize, figures: Arc<AheadFigures>) -> Ahead {
        Ahead(Arc::new(Inner {
            archiver,
            window,
            figures,
            left_behind: Notify::new(),
            state: Mutex::default(),
        }))
    }

    pub fn figures(&self) -> &Arc<AheadFigures> {
        &self.0.figures
    }

    /// Until a file is safe that a store did not take.
    pub async fn a_store_is_left_behind(&self) {
        self.0.left_behind.notified().await;
    }

    /// PostgreSQL asks for this file. What failed before it was asked for is tried again now.
    pub async fn archive(&self, source: Source) -> Outcome {
        let name = source.name;
        let dir = source.path.parent().map(Path::to_owned);
        let (running, finished) = self.begin(source);
        let mut outcome = running.await;
        // Not before the answer: PostgreSQL waits for that.
        let (this, beside) = (self.clone(), dir.clone());
        tokio::task::spawn_blocking(move || this.look_ahead(beside.as_deref()));
        if finished {
            match &outcome {
                Ok(_) => drop(self.0.figures.hits.fetch_add(1, Ordering::Relaxed)),
                Err(_) => {
                    self.lock().begun.remove(&name);
                    let path = dir.clone().unwrap_or_default().join(name.to_string());
                    outcome = self.begin(Source { path, name }).0.await;
                }
            }
        }
        // Asked again, it may be another file of this name: a server that was restored.
        let mut state = self.lock();
        state.begun.remove(&name);
        if outcome.is_ok() && self.0.window > 0 {
            state.answered.insert(name);
        }
        drop(state);
        outcome
    }

    /// Starts the work unless it is under way for this very file, and says whether it was finished.
    fn begin(&self, source: Source) -> (Running, bool) {
        let of = Identity::of(&source);
        let mut state = self.lock();
        if let Some(begun) = state.begun.get(&source.name)
            && Some(&begun.of) == of.as_ref()
        {
            return (begun.running.clone(), begun.finished);
        }
        let name = source.name;
        let (this, working_on) = (self.clone(), of.clone());
        let work = async move { this.work(source, working_on).await };
        let running = work.boxed().shared();
        state.next.retain(|next| *next != name);
        match of {
            Some(of) => drop(state.begun.insert(
                name,
                Begun {
                    running: running.clone(),
                    finished: false,
                    of,
                },
            )),
            None => drop(state.begun.remove(&name)),
        }
        drop(state);
        tokio::spawn(running.clone());
        (running, false)
    }

    async fn work(self, source: Source, of: Option<Identity>) -> Outcome {
        let name = source.name;
        let dir = source.path.parent().map(Path::to_owned);
        let outcome = self.0.archiver.archive(source).await;
        let figures = &self.0.figures;
        match &outcome {
            Ok(report) => {
                figures.files.fetch_add(1, Ordering::Relaxed);
                figures.bytes.fetch_add(report.file_bytes, Ordering::Relaxed);
                figures
                    .packed_bytes
                    .fetch_add(report.packed_bytes, Ordering::Relaxed);
                figures
                    .behind
                    .fetch_add(report.behind.len() as u64, Ordering::Relaxed);
                if !report.behind.is_empty() {
                    self.0.left_behind.notify_one();
                }
            }
            Err(_) => drop(figures.failures.fetch_add(1, Ordering::Relaxed)),
        }
        if let Some(begun) = self.lock().begun.get_mut(&name)
            && Some(&begun.of) == of.as_ref()
        {
            begun.finished = true;
        }
        let failed = outcome.is_err();
        if !failed {
            self.look_ahead(dir.as_deref());
        }
        outcome.map(Arc::new).map_err(Arc::new)
    }

    /// Begins what comes next in `pg_wal`, as far as the window and the processors allow.
    fn look_ahead(&self, pg_wal: Option<&Path>) {
        let Some(pg_wal) = pg_wal.filter(|_| self.0.window > 0) else {
            return;
        };
        let mut sources = Vec::new();
        let mut state = self.lock();
        let old = state.listed.is_none_or(|listed| listed.elapsed() >= LIST_AGE);
        if old || state.next.is_empty() {
            match ready(&pg_wal.join("archive_status")) {
                Ok(ready) => self.take_list(&mut state, ready),
                Err(error) => tracing::debug!(%error, "cannot look ahead"),
            }
        }
        let running = state.begun.values().filter(|begun| !begun.finished).count();
        let mut free = AT_ONCE
            .saturating_sub(running)
            .min(self.0.window.saturating_sub(state.begun.len()));
        while free > 0
            && let Some(name) = state.next.pop_front()
        {
            if !state.begun.contains_key(&name) {
                free -= 1;
                let path: PathBuf = pg_wal.join(name.to_string());
                sources.push(Source { path, name });
            }
        }
        drop(state);
        for source in sources {
            drop(self.begin(source));
        }
    }

    fn take_list(&self, state: &mut State, ready: Vec<WalFileName>) {
        // PostgreSQL marks what it has just been answered a moment later.
        let is_safe = |name: &WalFileName| {
            state.answered.contains(name) || state.begun.get(name).is_some_and(|begun| begun.finished)
        };
        let backlog = ready.iter().filter(|name| !is_safe(name)).count();
        self.0.figures.backlog.store(backlog as u64, Ordering::Relaxed);
        // What is no longer ready was taken by PostgreSQL; nobody will ask for it.
        let waiting: HashSet<_> = ready.iter().collect();
        state.answered.retain(|name| waiting.contains(name));
        state
            .begun
            .retain(|name, begun| !begun.finished || waiting.contains(name));
        let (begun, answered) = (&state.begun, &state.answered);
        state.next = ready
            .into_iter()
            .filter(|name| !begun.contains_key(name) && !answered.contains(name))
            .take(4 * self.0.window)
            .collect();
        state.listed = Some(Instant::now());
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Files that wait to be archived, in PostgreSQL's order: histories first, then by name.
fn ready(archive_status: &Path) -> Result<Vec<WalFileName>, FileError> {
    let mut names = Vec::new();
    let entries = match std::fs::read_dir(archive_status) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(names),
        entries => entries.to("list", archive_status)?,
    };
    for entry in entries {
        let entry = entry.to("list", archive_status)?;
        let file = entry.file_name();
        let name = file.to_str().and_then(|file| file.strip_suffix(".ready"));
        names.extend(name.and_then(|name| name.parse::<WalFileName>().ok()));
    }
    names.sort_by_cached_key(|name| (!matches!(name, WalFileName::History(_)), name.to_string()));
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histories_come_first_then_the_oldest() {
        let dir = tempfile::tempdir().unwrap();
        for name in [
            "000000010000000000000003.ready",
            "000000010000000000000002.ready",
            "000000010000000000000001.done",
            "00000002.history.ready",
            "000000010000000000000002.00000028.backup.ready",
            "stranger.ready",
        ] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        let names: Vec<String> = ready(dir.path())
            .unwrap()
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            names,
            [
                "00000002.history",
                "000000010000000000000002",
                "000000010000000000000002.00000028.backup",
                "000000010000000000000003",
            ]
        );
        assert!(ready(&dir.path().join("none")).unwrap().is_empty());
    }
}
