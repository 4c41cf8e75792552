//! Follows the spool's tables of contents from tick to tick.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use skytide_sql::{Lsn, Snapshot, TickId, Xid32};

use super::pending::Pending;
use super::source::BatchSource;
use super::{BatchError, source};
use crate::spool::{Entry, Hold, Reader, Spool, SpoolPos, TickEntry};

/// Ticks are looked ahead for up to so many, and the rest of a block: a spool may hold millions.
const MOST_AHEAD: usize = 4096;

/// The next entry to read: its block, and its number within it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor {
    pub block: SpoolPos,
    pub entry: usize,
}

/// A completed tick: what has been batched, and what was decoded but not.
#[derive(Clone, Debug)]
pub(super) struct At {
    pub tick: TickId,
    pub snapshot: Snapshot,
    /// Microseconds since 2000-01-01 UTC.
    pub time: i64,
    /// Where the commit record of the tick's own transaction begins.
    pub commit_lsn: Lsn,
    pub cursor: Cursor,
    /// In commit order.
    pub pending: Vec<Pending>,
    /// Where the parts of transactions that have not committed yet begin.
    pub open: HashMap<Xid32, SpoolPos>,
}

impl At {
    /// The spool must be kept from here.
    fn needs_from(&self) -> SpoolPos {
        let pending = self.pending.iter().filter_map(Pending::begin);
        pending
            .chain(self.open.values().copied())
            .fold(self.cursor.block, SpoolPos::min)
    }
}

/// How much to join into one batch.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Ticks are joined while the batch has no more rows than this; one tick is always taken.
    pub rows: u64,
    /// Do not go past this tick.
    pub stop_at: Option<TickId>,
}

/// The next batch.
#[derive(Clone, Debug)]
pub struct Plan {
    pub to: TickEntry,
    /// Where the commit record of the last tick's own transaction begins.
    pub commit_lsn: Lsn,
    pub ticks: usize,
    /// Rows between the ticks; the batch may hold a few more or less.
    pub rows: u64,
    pub(super) after: Cursor,
}

struct Found {
    entry: TickEntry,
    commit_lsn: Lsn,
    after: Cursor,
    rows: u64,
}

/// A consumer's place in the spool.
pub struct Follower {
    spool: Arc<Spool>,
    at: At,
    hold: Hold,
    /// Reads ahead, so that ticks are known before rows are read.
    scout: Reader,
    ahead: VecDeque<Found>,
    rows_ahead: u64,
}

impl Follower {
    /// Finds the place right after a tick. `None`: the tick is not in the spool yet.
    ///
    /// # Errors
    /// The spool begins after the tick, or cannot be read.
    pub fn at_tick(spool: &Arc<Spool>, tick: TickId) -> Result<Option<Follower>, BatchError> {
        let Some(block) = spool.find_tick(tick)? else {
            return match spool.first_tick() {
                Some(first) if first > tick => Err(BatchError::TickTooOld { tick }),
                _ => match spool.last_tick() {
                    Some(last) if last > tick => Err(BatchError::TickGap {
                        expected: tick,
                        found: last,
                    }),
                    _ => Ok(None),
                },
            };
        };
        let hold = spool.hold(spool.begin())?;
        let mut found = None;
        if let Some(block) = spool.reader(block).next_block()? {
            let mut commit_lsn = Lsn::INVALID;
            for (number, entry) in block.entries().enumerate() {
                match entry? {
                    Entry::Transaction { head, .. } | Entry::Commit { head, .. } => {
                        commit_lsn = head.commit_lsn
                    }
                    Entry::Tick(entry) if entry.tick_id == tick => {
                        let cursor = Cursor {
                            block: block.position(),
                            entry: number + 1,
                        };
                        found = Some((entry, commit_lsn, cursor));
                    }
                    _ => {}
                }
            }
        }
        let Some((entry, commit_lsn, cursor)) = found else {
            return Err(BatchError::TickTooOld { tick });
        };
        let mut at = At {
            tick,
            snapshot: entry.snapshot,
            time: entry.time,
            commit_lsn,
            cursor,
            pending: Vec::new(),
            open: HashMap::new(),
        };
        // Whatever was decoded before the tick and is not visible to it is still to come.
        let begin = Cursor {
            block: spool.begin(),
            entry: 0,
        };
        let snapshot = at.snapshot.clone();
        source::walk::<BatchError>(
            spool,
            begin,
            cursor,
            &snapshot,
            &mut at.pending,
            &mut at.open,
            None,
        )?;
        Follower::new(spool, at, hold).map(Some)
    }

    fn new(spool: &Arc<Spool>, at: At, hold: Hold) -> Result<Follower, BatchError> {
        hold.advance(at.needs_from())?;
        let scout = spool.reader(at.cursor.block);
        Ok(Follower {
            spool: Arc::clone(spool),
            at,
            hold,
            scout,
            ahead: VecDeque::new(),
            rows_ahead: 0,
        })
    }

    /// Another consumer at the same place.
    pub fn fork(&self) -> Result<Follower, BatchError> {
        let hold = self.spool.hold(self.at.needs_from())?;
        Follower::new(&self.spool, self.at.clone(), hold)
    }

    pub fn tick(&self) -> TickId {
        self.at.tick
    }

    pub fn snapshot(&self) -> &Snapshot {
        &self.at.snapshot
    }

    /// Transactions decoded but not yet visible: a reason to ask for another tick.
    pub fn has_pending(&self) -> bool {
        !self.at.pending.is_empty()
    }

    /// The spool is needed from here on to go on from this tick.
    pub fn needs_from(&self) -> SpoolPos {
        self.at.needs_from()
    }

    /// Holds the spool from `position` only: what is durable on the subscriber is not needed here any more.
    pub fn release(&self, position: SpoolPos) -> Result<(), BatchError> {
        Ok(self.hold.advance(position)?)
    }

    /// Everything that committed before this is applied.
    pub fn applied_lsn(&self) -> Lsn {
        self.at
            .pending
            .iter()
            .map(|p| p.commit_lsn)
            .fold(self.at.commit_lsn, Lsn::min)
    }

    /// When the completed tick was made, in microseconds since 2000-01-01 UTC.
    pub fn tick_time(&self) -> i64 {
        self.at.time
    }

    /// Rows of whole ticks that are in the spool and not applied, as far as has been looked.
    pub fn rows_ahead(&self) -> u64 {
        self.ahead.back().map_or(0, |f| f.rows)
    }

    /// Ticks that are in the spool and not applied, as far as has been looked.
    pub fn ticks_ahead(&self) -> usize {
        self.ahead.len()
    }

    /// The next batch, if a tick is there.
    pub fn plan(&mut self, limits: Limits) -> Result<Option<Plan>, BatchError> {
        self.look_ahead(limits.rows)?;
        let mut chosen = None;
        for (number, found) in self.ahead.iter().enumerate() {
            let past_stop = limits.stop_at.is_some_and(|stop| found.entry.tick_id > stop);
            let too_many = number > 0 && found.rows > limits.rows;
            if past_stop || too_many {
                break;
            }
            chosen = Some(number);
            if found.entry.barrier {
                break;
            }
        }
        Ok(chosen
            .and_then(|n| self.ahead.get(n).map(|f| (n, f)))
            .map(|(n, f)| Plan {
                to: f.entry.clone(),
                commit_lsn: f.commit_lsn,
                ticks: n + 1,
                rows: f.rows,
                after: f.after,
            }))
    }

    /// The changes of a planned batch.
    pub fn source(&self, plan: &Plan) -> BatchSource {
        BatchSource::new(Arc::clone(&self.spool), self.at.clone(), plan.clone())
    }

    /// The batch has been applied: go to its end.
    pub fn advance(&mut self, plan: &Plan, done: BatchSource) {
        self.at = done.into_end();
        self.ahead.drain(..plan.ticks);
        for found in &mut self.ahead {
            found.rows -= plan.rows;
        }
        self.rows_ahead -= plan.rows;
    }

    /// Reads tables of contents until more than `rows` rows or many ticks are ahead, or the spool ends.
    fn look_ahead(&mut self, rows: u64) -> Result<(), BatchError> {
        while self.ahead.len() < MOST_AHEAD && self.ahead.back().is_none_or(|f| f.rows <= rows) {
            let Some(block) = self.scout.next_block()? else {
                break;
            };
            let position = block.position();
            let mut commit_lsn = Lsn::INVALID;
            for (number, entry) in block.entries().enumerate() {
                if (Cursor {
                    block: position,
                    entry: number,
                }) < self.at.cursor
                {
                    continue;
                }
                match entry? {
                    Entry::Transaction { head, row_count, .. } => {
                        self.rows_ahead += u64::from(row_count);
                        commit_lsn = head.commit_lsn;
                    }
                    Entry::Commit { head, row_count, .. } => {
                        self.rows_ahead += row_count;
                        commit_lsn = head.commit_lsn;
                    }
                    Entry::Tick(entry) => {
                        let (tick, snapshot) = match self.ahead.back() {
                            Some(found) => (found.entry.tick_id, &found.entry.snapshot),
                            None => (self.at.tick, &self.at.snapshot),
                        };
                        check_follows(tick, snapshot, &entry)?;
                        let after = Cursor {
                            block: position,
                            entry: number + 1,
                        };
                        self.ahead.push_back(Found {
                            entry,
                            commit_lsn,
                            after,
                            rows: self.rows_ahead,
                        });
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

fn check_follows(tick: TickId, snapshot: &Snapshot, next: &TickEntry) -> Result<(), BatchError> {
    if next.previous.is_some_and(|previous| previous != tick) {
        return Err(BatchError::TickGap {
            expected: tick,
            found: next.tick_id,
        });
    }
    if !next.snapshot.contains(snapshot) {
        return Err(BatchError::Inverted {
            earlier: tick,
            tick: next.tick_id,
            snapshot: Box::new(next.snapshot.clone()),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use skytide_sql::{QueueName, SlotName, Xid32};
    use tempfile::TempDir;

    use super::*;
    use crate::apply::ChangeSource;
    use crate::spool::{Identity, Settings, TxHead, Writer};

    const ROW: &[u8] = b"\x05\x00\x00\x00T\x00\x00\x00\x00";
    const LIMITS: Limits = Limits {
        rows: 10,
        stop_at: None,
    };

    struct Stage {
        writer: Writer,
        spool: Arc<Spool>,
        _dir: TempDir,
    }

    impl Stage {
        fn new() -> Stage {
            let dir = tempfile::tempdir().unwrap();
            let identity = Identity {
                system_id: 1,
                timeline: 1,
                database: "shop".into(),
                slot: SlotName::new("s").unwrap(),
                queue: QueueName::new("q").unwrap(),
            };
            let (writer, spool) = Writer::open(Settings::new(dir.path()), identity).unwrap();
            Stage {
                writer,
                spool,
                _dir: dir,
            }
        }

        /// A tick after `previous`, and what its transaction wrote besides.
        fn tick(&mut self, id: i64, previous: Option<i64>, snapshot: &str, rows: &[u8]) {
            let at = id.unsigned_abs();
            let head = TxHead {
                xid: Xid32::new(100 + at as u32),
                commit_lsn: Lsn::new(at * 100),
                end_lsn: Lsn::new(at * 100 + 50),
                commit_time: 0,
            };
            let count = u32::from(!rows.is_empty());
            self.writer.transaction(head, rows, count).unwrap();
            let entry = TickEntry {
                tick_id: TickId::new(id),
                previous: previous.map(TickId::new),
                time: 0,
                event_seq: 0,
                snapshot: snapshot.parse().unwrap(),
                barrier: false,
            };
            self.writer.tick(entry).unwrap();
            self.writer.publish().unwrap();
        }

        fn at(&self, tick: i64) -> Result<Option<Follower>, BatchError> {
            Follower::at_tick(&self.spool, TickId::new(tick))
        }
    }

    #[test]
    fn the_transaction_of_a_tick_alone_does_not_ask_for_another_tick() {
        let mut stage = Stage::new();
        stage.tick(1, None, "101:101:", &[]);
        let mut follower = stage.at(1).unwrap().unwrap();
        assert!(!follower.has_pending());

        // With a row in it, it does.
        stage.tick(2, Some(1), "102:102:", ROW);
        let plan = follower.plan(LIMITS).unwrap().unwrap();
        let source = follower.source(&plan);
        source.drain(&mut |_, _| Ok(())).unwrap();
        follower.advance(&plan, source);
        assert!(follower.has_pending());
    }

    /// Prevents: changes passed over in silence where the chain of ticks is broken.
    #[test]
    fn a_tick_that_does_not_follow_the_one_before_is_refused() {
        let mut stage = Stage::new();
        stage.tick(1, None, "101:101:", &[]);
        stage.tick(2, Some(1), "102:102:", &[]);
        stage.tick(5, Some(4), "105:105:", ROW);
        let gap = |found: Result<Option<Plan>, BatchError>, at: i64| match found {
            Err(BatchError::TickGap { expected, found }) => {
                assert_eq!((expected.get(), found.get()), (at, 5));
            }
            other => panic!("{other:?}"),
        };
        gap(stage.at(2).unwrap().unwrap().plan(LIMITS), 2);
        // Ticks before the gap are not given either: looking ahead met it.
        gap(stage.at(1).unwrap().unwrap().plan(LIMITS), 2);
        assert!(stage.at(5).unwrap().unwrap().plan(LIMITS).unwrap().is_none());
    }

    #[test]
    fn a_position_between_ticks_is_a_gap_and_one_outside_is_not() {
        let mut stage = Stage::new();
        stage.tick(3, None, "103:103:", &[]);
        stage.tick(9, Some(3), "109:109:", &[]);
        assert!(matches!(stage.at(2), Err(BatchError::TickTooOld { .. })));
        assert!(matches!(
            stage.at(5),
            Err(BatchError::TickGap { expected, .. }) if expected.get() == 5
        ));
        // Not there yet: the stream may still bring it.
        assert!(stage.at(10).unwrap().is_none());
    }

    #[test]
    fn a_tick_that_sees_less_than_the_one_before_is_refused() {
        let mut stage = Stage::new();
        stage.tick(1, None, "105:105:", &[]);
        stage.tick(2, Some(1), "103:105:103", ROW);
        match stage.at(1).unwrap().unwrap().plan(LIMITS) {
            Err(BatchError::Inverted { earlier, tick, .. }) => {
                assert_eq!((earlier.get(), tick.get()), (1, 2));
            }
            other => panic!("{other:?}"),
        }
    }
}
