//! Batches for a reader whom the spool is not kept for: read if all of them is there, or not at all.
//!
//! The worker lets go of what it has applied itself. For an earlier tick something may be missing: a transaction
//! whose commit was decoded before the first block that is kept, and which the tick's snapshot did not see.
//! It would be among those that ran at the batch's first tick and are visible at its last. Such a one is either found
//! in the spool, or it began after the first kept tick had committed, so that whatever it did is kept.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use skytide_sql::{Snapshot, TickId, Xid};

use super::BatchError;
use super::follow::{Follower, Limits};
use crate::apply::{ApplyError, ChangeSource as _};
use crate::change::RowChange;
use crate::spool::{Entry, Spool, SpoolError, SpoolPos};

/// Reads another process's spool.
pub struct WholeBatches {
    dir: PathBuf,
    open: Option<Open>,
}

/// A tick as the queue's database has it.
pub struct Tick {
    pub id: TickId,
    pub snapshot: Snapshot,
}

struct Open {
    spool: Arc<Spool>,
    /// Where the spool began when the horizon was looked for.
    begin: SpoolPos,
    /// The first kept tick, and a transaction from which on all began after it had committed.
    horizon: (TickId, Xid),
    follower: Option<Follower>,
}

/// Takes a batch's changes.
pub type Take<'a> = &'a mut dyn FnMut(&Spool, Xid, &RowChange<'_>) -> Result<(), ApplyError>;

impl WholeBatches {
    pub fn new(dir: impl Into<PathBuf>) -> WholeBatches {
        WholeBatches {
            dir: dir.into(),
            open: None,
        }
    }

    /// Hands over the changes between two ticks. False: the spool does not have all of them, and what was handed
    /// over is to be forgotten.
    ///
    /// # Errors
    /// The spool cannot be read, or `take` failed.
    pub fn read(&mut self, from: &Tick, to: &Tick, take: Take<'_>) -> Result<bool, ApplyError> {
        if let Some(open) = &self.open
            && open.spool.last_tick() < Some(to.id)
            && !open.spool.go_along().map_err(BatchError::from)?
        {
            self.open = None;
        }
        if self.open.is_none() {
            self.open = Open::new(&self.dir)?;
        }
        let Some(open) = self
            .open
            .as_mut()
            .filter(|open| open.spool.last_tick() >= Some(to.id))
        else {
            return Ok(false);
        };
        let read = match open.read(from, to, take) {
            // The worker let go of it meanwhile.
            Err(ApplyError::Source(BatchError::Spool(SpoolError::Released { .. }))) => Ok(false),
            read => read,
        };
        if !matches!(read, Ok(true)) {
            // Its place is not the next batch's.
            open.follower = None;
        }
        read
    }
}

impl Open {
    /// `None`: it has no two ticks yet.
    fn new(dir: &Path) -> Result<Option<Open>, BatchError> {
        let spool = Spool::open_read_only(dir)?;
        let begin = spool.begin();
        let horizon = horizon(&spool)?;
        Ok(horizon.map(|horizon| Open {
            spool,
            begin,
            horizon,
            follower: None,
        }))
    }

    fn read(&mut self, from: &Tick, to: &Tick, take: Take<'_>) -> Result<bool, ApplyError> {
        let kept = self.follower.take().filter(|follower| follower.tick() == from.id);
        // What a follower has seen it knows, whatever went since it set out.
        if kept.is_none() && self.begin != self.spool.begin() {
            self.begin = self.spool.begin();
            let Some(found) = horizon(&self.spool)? else {
                return Ok(false);
            };
            self.horizon = found;
        }
        let (first, horizon) = self.horizon;
        // What ended between the first tick's snapshot and its commit may lie before the spool's begin.
        if from.id <= first {
            return Ok(false);
        }
        let follower = match kept {
            Some(follower) => Some(follower),
            None => match Follower::at_tick(&self.spool, from.id) {
                Err(BatchError::TickTooOld { .. } | BatchError::TickGap { .. }) => None,
                found => found?,
            },
        };
        let Some(mut follower) = follower else {
            return Ok(false);
        };
        let limits = Limits {
            rows: u64::MAX,
            stop_at: Some(to.id),
        };
        // A barrier among the ticks ends a plan early; the reader's batch has only ends that are its own.
        let Some(plan) = follower.plan(limits)?.filter(|plan| plan.to.tick_id == to.id) else {
            return Ok(false);
        };
        // Ticks of another queue, or of this one before it was made anew, may have the same numbers.
        if *follower.snapshot() != from.snapshot || plan.to.snapshot != to.snapshot {
            return Ok(false);
        }
        let begin = follower.snapshot().clone();
        let batch = follower.source(&plan);
        let mut found = HashSet::new();
        let mut last = None;
        batch.drain(&mut |xid, change| {
            if last != Some(xid) {
                found.insert(xid);
                last = Some(xid);
            }
            take(&self.spool, xid, change)
        })?;
        let missing = begin
            .in_progress()
            .iter()
            .any(|xid| plan.to.snapshot.sees(*xid) && *xid < horizon && !found.contains(xid));
        follower.advance(&plan, batch);
        self.follower = Some(follower);
        Ok(!missing)
    }
}

/// A transaction that got its id after the second kept tick's snapshot began after the first one's commit.
fn horizon(spool: &Arc<Spool>) -> Result<Option<(TickId, Xid)>, BatchError> {
    let mut reader = spool.reader(spool.begin());
    let mut first = None;
    while let Some(block) = reader.next_block()? {
        for entry in block.entries() {
            // After a reconnect a tick comes once more.
            if let Entry::Tick(tick) = entry? {
                let first = *first.get_or_insert(tick.tick_id);
                if first < tick.tick_id {
                    return Ok(Some((first, tick.snapshot.xmax())));
                }
            }
        }
    }
    Ok(None)
}
