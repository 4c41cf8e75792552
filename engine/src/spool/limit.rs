//! How much is kept: holds of readers, release, quota.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Spool, SpoolError, SpoolPos, segment};

/// Room for more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    /// About this many bytes may still be appended.
    Free(u64),
    /// Not another segment: readers have to release some first.
    Full,
}

#[derive(Default)]
pub(super) struct Retention {
    state: Mutex<Holds>,
}

impl Retention {
    fn holds(&self) -> MutexGuard<'_, Holds> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Default)]
struct Holds {
    released: SpoolPos,
    held: BTreeMap<u64, SpoolPos>,
    next: u64,
}

/// Keeps everything from its position on. After it is dropped, a release lets go.
pub struct Hold {
    spool: Arc<Spool>,
    key: u64,
}

impl Hold {
    /// Lets go of what is before `position`. Going back has no effect.
    pub fn advance(&self, position: SpoolPos) -> Result<(), SpoolError> {
        let mut state = self.spool.retention.holds();
        if let Some(held) = state.held.get_mut(&self.key) {
            *held = position.max(*held);
        }
        self.spool.collect(&state)
    }

    pub fn position(&self) -> SpoolPos {
        let state = self.spool.retention.holds();
        state.held.get(&self.key).copied().unwrap_or_default()
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut state = self.spool.retention.holds();
        if let Some(held) = state.held.remove(&self.key) {
            // Whoever drops a hold may be about to come back for what it kept: that goes at the next
            // release, not by one that was noted while it was held.
            state.released = state.released.min(held);
        }
    }
}

impl Spool {
    /// Keeps everything from `from` on until the hold advances or is dropped.
    ///
    /// # Errors
    /// [`SpoolError::Released`] if that is gone already.
    pub fn hold(self: &Arc<Self>, from: SpoolPos) -> Result<Hold, SpoolError> {
        let mut state = self.retention.holds();
        let begin = self.begin();
        if from < begin {
            return Err(SpoolError::Released { wanted: from, begin });
        }
        let key = state.next;
        state.next += 1;
        state.held.insert(key, from);
        drop(state);
        Ok(Hold {
            spool: Arc::clone(self),
            key,
        })
    }

    /// Says that nobody will need what is before `before`. Segments wholly below it and below every hold are
    /// deleted; whoever still reads one keeps its map.
    pub fn release(&self, before: SpoolPos) -> Result<(), SpoolError> {
        let mut state = self.retention.holds();
        state.released = state.released.max(before);
        self.collect(&state)
    }

    /// Called with the holds locked, so that no hold appears below what is being deleted.
    fn collect(&self, holds: &Holds) -> Result<(), SpoolError> {
        let lowest = holds.held.values().copied().min();
        let limit = lowest.map_or(holds.released, |held| held.min(holds.released));
        let mut freed = false;
        loop {
            // Out of the list first, then unlinked, lowest first: what is left is always contiguous.
            let gone = {
                let mut segments = self.segments.write().unwrap_or_else(PoisonError::into_inner);
                let keep = limit.segment(self.segment_bytes);
                match segments.first_key_value() {
                    Some((number, _)) if *number < keep && segments.len() > 1 => segments.pop_first(),
                    _ => None,
                }
            };
            let Some((number, gone)) = gone else { break };
            if self.read_only {
                continue;
            }
            // The sidecar first: alone it would vouch for a later segment of that number.
            let index = segment::index_path(&self.dir, number);
            segment::remove(&index)?;
            segment::remove(&gone.path)?;
            freed = true;
        }
        if freed {
            fail::fail_point!("spool::released");
            self.on_release.call();
        }
        Ok(())
    }
}
