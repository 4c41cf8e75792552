//! The loss window: what would be missing if the server's disk were gone now.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use skytide_sql::Lsn;

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
            server_flush: Lsn::INVALID,
            marks: VecDeque::new(),
            stores: locations.into_iter().map(held).collect(),
        }))
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
        let least = inner.stores.iter().map(|held| held.safe.boundary).min();
        let least = least.unwrap_or(Lsn::INVALID);
        while inner.marks.front().is_some_and(|(lsn, _)| *lsn <= least) {
            inner.marks.pop_front();
        }
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

#[cfg(test)]
mod tests {
    use super::*;

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
