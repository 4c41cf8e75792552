//! The thread that makes the spool durable, so that capture never waits for a disk.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use skytide_sql::Lsn;

use super::segment::{Segment, sync_dir};
use super::{Spool, SpoolError, SpoolPos};

/// What the thread has to do.
struct Work {
    wanted: bool,
    stop: bool,
    /// Closed segments that are not durable yet, oldest first.
    sealed: Vec<Arc<Segment>>,
    current: Arc<Segment>,
    /// The current segment's directory entry may not be durable yet.
    created: bool,
    published: SpoolPos,
    published_lsn: Lsn,
}

/// Bytes of the open segment that may stay mapped in before the thread lets go of them.
const FORGET_EVERY: usize = 8 << 20;

struct Shared {
    /// Where in the open segment it last let go.
    resident: AtomicUsize,
    spool: Arc<Spool>,
    work: Mutex<Work>,
    wake: Condvar,
}

/// The writer's end of the thread. Dropping it ends the thread.
pub(super) struct SyncThread {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Shared {
    fn work(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        loop {
            let mut work = self.work();
            while !work.wanted && !work.stop {
                work = self.wake.wait(work).unwrap_or_else(PoisonError::into_inner);
            }
            if work.stop {
                return;
            }
            work.wanted = false;
            let sealed = std::mem::take(&mut work.sealed);
            let current = Arc::clone(&work.current);
            let created = std::mem::take(&mut work.created);
            let (published, lsn) = (work.published, work.published_lsn);
            drop(work);
            if published == self.spool.durable() && sealed.is_empty() {
                continue;
            }
            let started = std::time::Instant::now();
            let synced = self.sync(&sealed, &current, created);
            metrics::histogram!(crate::metrics::SPOOL_SYNC).record(started.elapsed());
            match synced {
                Ok(()) => {
                    self.spool.set_durable(published, lsn);
                    self.spool.on_durable.call();
                }
                Err(e) => {
                    // The kernel may have dropped the dirty pages: syncing again would only look like success.
                    self.spool.poison(&e);
                    self.spool.on_durable.call();
                    return;
                }
            }
        }
    }

    /// 1. Closed segments' contents, 2. the open one's, 3. the directory if it has a new name, and only then
    /// 4. the sidecars, which vouch for closed segments.
    fn sync(&self, sealed: &[Arc<Segment>], current: &Segment, created: bool) -> Result<(), SpoolError> {
        fail::fail_point!("spool::before_fsync");
        for segment in sealed {
            segment.sync()?;
            segment.map.forget_below(usize::MAX);
        }
        current.sync()?;
        let now = current.map.published().len();
        if now >= self.resident.load(Ordering::Relaxed) + FORGET_EVERY || !sealed.is_empty() {
            // Readers are mostly past it. What is on disk need not count as this process's memory.
            current.map.forget_below(now);
            self.resident.store(now, Ordering::Relaxed);
        }
        if created {
            sync_dir(&self.spool.dir)?;
        }
        fail::fail_point!("spool::after_fsync");
        for segment in sealed {
            // A segment released meanwhile needs no sidecar.
            if self.spool.segment(segment.header.number).is_some() {
                segment.index().store(&self.spool.dir, &segment.header)?;
            }
        }
        Ok(())
    }
}

impl SyncThread {
    pub fn start(spool: &Arc<Spool>, current: &Arc<Segment>, lsn: Lsn) -> Result<SyncThread, SpoolError> {
        let shared = Arc::new(Shared {
            resident: AtomicUsize::new(0),
            spool: Arc::clone(spool),
            work: Mutex::new(Work {
                wanted: false,
                stop: false,
                sealed: Vec::new(),
                current: Arc::clone(current),
                created: false,
                published: spool.end(),
                published_lsn: lsn,
            }),
            wake: Condvar::new(),
        });
        let own = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("spool-sync".into())
            .spawn(move || own.run())
            .map_err(|source| SpoolError::Io {
                action: "start the sync thread of",
                path: PathBuf::from(&spool.dir),
                source,
            })?;
        Ok(SyncThread {
            shared,
            thread: Some(thread),
        })
    }

    /// Readers see everything up to here now.
    pub fn published(&self, end: SpoolPos, lsn: Lsn) {
        let mut work = self.shared.work();
        work.published = end;
        work.published_lsn = lsn;
    }

    /// The writer went on in `next`, where `end` is. Asks for a sync, so that closed segments do not pile up.
    /// In one step: a sidecar, which vouches for `next`, must not be older than what is called durable.
    pub fn switched(&self, next: &Arc<Segment>, end: SpoolPos, lsn: Lsn) {
        let mut work = self.shared.work();
        work.published = end;
        work.published_lsn = lsn;
        let closed = std::mem::replace(&mut work.current, Arc::clone(next));
        work.sealed.push(closed);
        work.created = true;
        work.wanted = true;
        drop(work);
        self.shared.wake.notify_one();
    }

    pub fn request(&self) {
        self.shared.work().wanted = true;
        self.shared.wake.notify_one();
    }
}

impl Drop for SyncThread {
    fn drop(&mut self) {
        self.shared.work().stop = true;
        self.shared.wake.notify_one();
        if let Some(thread) = self.thread.take() {
            // A panic there was printed there.
            let _ = thread.join();
        }
    }
}
