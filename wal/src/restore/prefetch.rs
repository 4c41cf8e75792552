//! Reading ahead: the segments that recovery asks for next are fetched and checked before it does.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};

use super::{RestoreError, Restorer, Served};
use crate::{SegmentName, SegmentSize, WalFileName};

/// Segments fetched at the same time ahead of the one that is asked for.
const AT_ONCE: usize = 2;

type Outcome = Result<Option<Arc<Served>>, Arc<RestoreError>>;
type Running = Shared<BoxFuture<'static, Outcome>>;

/// What a daemon is asked to restore, with the next segments at hand.
#[derive(Debug, Clone)]
pub struct Prefetch(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    restorer: Restorer,
    /// Bytes of segments held in memory.
    max_bytes: u64,
    /// How long "not here" is believed. Short: a segment may be archived at any time.
    miss_time: Duration,
    state: Mutex<State>,
    hits: AtomicU64,
    requests: AtomicU64,
}

#[derive(Default)]
struct State {
    ahead: HashMap<SegmentName, Fetch>,
    /// The last segment that was asked for and found.
    served: Option<(SegmentName, SegmentSize)>,
    missing: HashMap<WalFileName, Instant>,
}

struct Fetch {
    running: Running,
    end: End,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    NotYet,
    Found,
    /// There is none, or there was trouble. Nothing after it is fetched, and it is not kept as an answer.
    Nothing(Instant),
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} segments ahead of {:?}", self.ahead.len(), self.served)
    }
}

impl Prefetch {
    pub fn new(restorer: Restorer, max_bytes: u64, miss_time: Duration) -> Prefetch {
        Prefetch(Arc::new(Inner {
            restorer,
            max_bytes,
            miss_time,
            state: Mutex::default(),
            hits: AtomicU64::new(0),
            requests: AtomicU64::new(0),
        }))
    }

    /// Requests, and how many of them found their file at hand.
    pub fn figures(&self) -> (u64, u64) {
        let Inner { hits, requests, .. } = &*self.0;
        (requests.load(Ordering::Relaxed), hits.load(Ordering::Relaxed))
    }

    /// Something was archived: what was missing may be there now.
    pub fn forget_misses(&self) {
        self.lock().missing.clear();
    }

    /// As [`Restorer::belongs_to`].
    pub async fn belongs_to(&self, system_id: u64) -> Result<(), Arc<RestoreError>> {
        self.0.restorer.belongs_to(system_id).await.map_err(Arc::new)
    }

    /// As [`Restorer::behind`].
    pub async fn behind(&self, missing: SegmentName) -> Result<Option<SegmentName>, Arc<RestoreError>> {
        self.0.restorer.behind(missing).await.map_err(Arc::new)
    }

    pub async fn fetch(&self, name: WalFileName) -> Outcome {
        self.0.requests.fetch_add(1, Ordering::Relaxed);
        let ahead = {
            let mut state = self.lock();
            let time = self.0.miss_time;
            state.missing.retain(|_, since| since.elapsed() < time);
            if state.missing.contains_key(&name) {
                self.0.hits.fetch_add(1, Ordering::Relaxed);
                return Ok(None);
            }
            match name {
                WalFileName::Segment(segment) => state.ahead.remove(&segment),
                _ => None,
            }
        };
        let found = match ahead {
            Some(fetch) if !matches!(fetch.end, End::Nothing(_)) => {
                let at_hand = fetch.end == End::Found;
                let found = fetch.running.await.unwrap_or(None);
                if at_hand && found.is_some() {
                    self.0.hits.fetch_add(1, Ordering::Relaxed);
                }
                found
            }
            _ => None,
        };
        // The look ahead knows whole segments only, and its trouble is not the answer to this question.
        let found = match found {
            Some(found) => Some(found),
            None => self.0.restorer.fetch(name).await.map_err(Arc::new)?.map(Arc::new),
        };
        match (&found, name) {
            (Some(served), WalFileName::Segment(segment)) => {
                if let Some(size) = u32::try_from(served.bytes.len()).ok().and_then(SegmentSize::new) {
                    self.served(segment, size);
                }
            }
            (Some(_), _) => {}
            (None, _) => drop(self.lock().missing.insert(name, Instant::now())),
        }
        Ok(found)
    }

    fn served(&self, segment: SegmentName, size: SegmentSize) {
        {
            let mut state = self.lock();
            state.served = Some((segment, size));
            let window = self.window(&state);
            state.ahead.retain(|name, _| window.contains(name));
        }
        self.fill();
    }

    /// The segments that may be held, the next one first.
    fn window(&self, state: &State) -> Vec<SegmentName> {
        let Some((served, size)) = state.served else {
            return Vec::new();
        };
        let Some(number) = served.number(size) else {
            return Vec::new();
        };
        let count = usize::try_from(self.0.max_bytes / size.bytes()).unwrap_or(0);
        let numbers = std::iter::successors(Some(number.next()), |number| Some(number.next()));
        numbers
            .take(count)
            .filter_map(|number| SegmentName::new(served.timeline(), number, size))
            .collect()
    }

    /// Begins fetching what comes next and fits.
    fn fill(&self) {
        let mut state = self.lock();
        let mut running = state
            .ahead
            .values()
            .filter(|fetch| fetch.end == End::NotYet)
            .count();
        for segment in self.window(&state) {
            if running >= AT_ONCE {
                return;
            }
            match state.ahead.get(&segment).map(|fetch| fetch.end) {
                Some(End::NotYet | End::Found) => continue,
                Some(End::Nothing(since)) if since.elapsed() < self.0.miss_time => return,
                Some(End::Nothing(_)) | None => {}
            }
            let this = self.clone();
            let work = async move {
                let outcome = this.0.restorer.fetch_whole(WalFileName::Segment(segment)).await;
                let end = match &outcome {
                    Ok(Some(_)) => End::Found,
                    Ok(None) | Err(_) => End::Nothing(Instant::now()),
                };
                if let Some(fetch) = this.lock().ahead.get_mut(&segment) {
                    fetch.end = end;
                }
                if end == End::Found {
                    this.fill();
                }
                outcome.map(|found| found.map(Arc::new)).map_err(Arc::new)
            };
            let running_fetch = work.boxed().shared();
            tokio::spawn(running_fetch.clone());
            let fetch = Fetch {
                running: running_fetch,
                end: End::NotYet,
            };
            state.ahead.insert(segment, fetch);
            running += 1;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
