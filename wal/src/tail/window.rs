//! The loss window: what would be missing if the server's disk were gone now.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use skytide_sql::Lsn;

use crate::HistoryFile;
use crate::walsender::Timestamp;

/// Moments are remembered up to this many; then the newest ones are joined, which errs on the long side.
const MAX_MARKS: usize = 4096;
/// Moments closer to each other than this are one.
const RESOLUTION: Duration = Duration::from_millis(1);

/// Live numbers, shared by whoever writes to the stores and whoever shows them.
#[derive(Debug)]
pub struct Window(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    /// Whose WAL it is.
    path: Option<HistoryFile>,
    server_flush: Lsn,
    /// When the server's flush position was first heard of, ascending. The ones that every store has are dropped.
    marks: VecDeque<(Lsn, Instant)>,
    stores: Vec<Held>,
}

#[derive(Debug, Clone)]
struct Held {
    location: String,
    safe: Safe,
    trouble: Option<String>,
}

/// What a store has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Safe {
    /// Behind the last byte on its disk.
    pub durable: Lsn,
    /// Behind the last whole record on its disk.
    pub boundary: Lsn,
    /// When the last transaction committed, by the server's clock, of which the commit is there.
    pub last_commit: Option<Timestamp>,
}

/// One store's loss window.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreWindow {
    pub location: String,
    pub safe: Safe,
    /// What the server had made durable, as far as was heard.
    pub server_flush: Lsn,
    /// From the last whole record in the store to the server's flush position.
    pub bytes: u64,
    /// For how long the first of those bytes have been durable on the server and not in the store.
    pub time: Duration,
    /// Why the store takes nothing now.
    pub trouble: Option<String>,
}

impl Window {
    pub fn new(locations: impl IntoIterator<Item = String>) -> Window {
        let held = |location| Held {
            location,
            safe: Safe::default(),
            trouble: None,
        };
        Window(Mutex::new(Inner {
            path: None,
            server_flush: Lsn::INVALID,
            marks: VecDeque::new(),
            stores: locations.into_iter().map(held).collect(),
        }))
    }

    /// The server's WAL is that on the way to this timeline. Where the way is another one than before, what was known
    /// from there on is of WAL that is lost, and says nothing of what comes.
    pub(crate) fn follow(&self, path: &HistoryFile) {
        let inner = &mut *self.lock();
        let before = inner.path.replace(path.clone());
        let Some(parting) = before.and_then(|before| before.parts_from(path)) else {
            return;
        };
        inner.server_flush = inner.server_flush.min(parting);
        for (lsn, _) in &mut inner.marks {
            *lsn = parting.min(*lsn);
        }
        for held in &mut inner.stores {
            let safe = &mut held.safe;
            if safe.boundary > parting {
                safe.last_commit = None;
            }
            safe.boundary = safe.boundary.min(parting);
            safe.durable = safe.durable.min(parting);
        }
        inner.forget_safe();
    }

    /// The server has made its WAL durable up to here.
    pub fn server(&self, flush: Lsn) {
        let inner = &mut *self.lock();
        if flush <= inner.server_flush {
            return;
        }
        inner.server_flush = flush;
        let now = Instant::now();
        let full = inner.marks.len() >= MAX_MARKS;
        match inner.marks.back_mut() {
            Some((lsn, time)) if full || now.duration_since(*time) < RESOLUTION => *lsn = flush,
            _ => inner.marks.push_back((flush, now)),
        }
    }

    /// The store at this place has this much.
    pub(crate) fn safe(&self, place: usize, safe: Safe) {
        let inner = &mut *self.lock();
        if let Some(held) = inner.stores.get_mut(place) {
            held.safe = safe;
        }
        inner.forget_safe();
    }

    pub(crate) fn trouble(&self, place: usize, trouble: Option<String>) {
        if let Some(held) = self.lock().stores.get_mut(place) {
            held.trouble = trouble;
        }
    }

    pub fn stores(&self) -> Vec<StoreWindow> {
        let (inner, now) = (self.lock(), Instant::now());
        let of = |held: &Held| {
            let boundary = held.safe.boundary;
            let first = inner.marks.iter().find(|(lsn, _)| *lsn > boundary);
            StoreWindow {
                location: held.location.clone(),
                safe: held.safe,
                server_flush: inner.server_flush,
                bytes: inner.server_flush.bytes_since(boundary).unwrap_or(0),
                time: first.map_or(Duration::ZERO, |(_, since)| now.duration_since(*since)),
                trouble: held.trouble.clone(),
            }
        };
        inner.stores.iter().map(of).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Moments of which every store has the WAL.
    fn forget_safe(&mut self) {
        let least = self.stores.iter().map(|held| held.safe.boundary).min();
        let least = least.unwrap_or(Lsn::INVALID);
        while self.marks.front().is_some_and(|(lsn, _)| *lsn <= least) {
            self.marks.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TimelineId;

    fn at(boundary: u64) -> Safe {
        Safe {
            boundary: Lsn::new(boundary),
            durable: Lsn::new(boundary),
            last_commit: None,
        }
    }

    #[test]
    fn each_store_has_its_own_window() {
        let window = Window::new(["a".to_owned(), "b".to_owned()]);
        window.server(Lsn::new(100));
        window.safe(0, at(100));
        window.safe(1, at(40));
        let stores = window.stores();
        assert_eq!((stores[0].bytes, stores[0].time), (0, Duration::ZERO));
        assert_eq!(stores[1].bytes, 60);
        assert!(stores[1].time > Duration::ZERO, "it lacks what was heard of");
        window.safe(1, at(120));
        assert_eq!(
            window.stores()[1].bytes,
            0,
            "a store may know more than was heard"
        );
    }

    /// Prevents: after a failover that lost WAL the metrics say that nothing would be lost, or for ever too much.
    #[test]
    fn another_timeline_is_measured_from_where_it_begins() {
        let tli = |number| TimelineId::new(number).unwrap();
        let root = HistoryFile::root(tli(1));
        let child = root.child(tli(2), Lsn::new(600), "").unwrap();
        let window = Window::new(["a".to_owned(), "b".to_owned()]);
        window.follow(&root);
        window.server(Lsn::new(1000));
        window.safe(0, at(1000));
        window.safe(1, at(500));
        // The same server, connected anew.
        window.follow(&root);
        assert_eq!(window.stores()[1].bytes, 500);

        window.follow(&child);
        let sizes = || {
            window
                .stores()
                .iter()
                .map(|store| store.bytes)
                .collect::<Vec<_>>()
        };
        assert_eq!(sizes(), [0, 100]);
        window.server(Lsn::new(700));
        assert_eq!(sizes(), [100, 200], "of WAL below what the old server had");
        let stores = window.stores();
        assert_eq!(stores[0].safe.boundary, Lsn::new(600));
        assert!(stores[0].time > Duration::ZERO && stores[1].time >= stores[0].time);
        window.safe(0, at(700));
        window.safe(1, at(700));
        assert_eq!(sizes(), [0, 0]);
        assert!(window.lock().marks.is_empty());
    }

    #[test]
    fn many_moments_take_bounded_memory() {
        let window = Window::new(["a".to_owned()]);
        for lsn in 1..=3 * MAX_MARKS as u64 {
            // As if a while lay between them.
            window.lock().marks.back_mut().into_iter().for_each(|mark| {
                mark.1 = mark.1.checked_sub(RESOLUTION).unwrap_or(mark.1);
            });
            window.server(Lsn::new(lsn));
        }
        assert_eq!(window.lock().marks.len(), MAX_MARKS);
        window.safe(0, at(3 * MAX_MARKS as u64));
        assert!(window.lock().marks.is_empty());
    }
}
