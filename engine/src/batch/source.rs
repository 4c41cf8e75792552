//! The changes of one batch, read from the spool.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use skytide_sql::{Snapshot, Xid, Xid32};

use super::BatchError;
use super::follow::{At, Cursor, Plan};
use super::pending::Pending;
use crate::apply::{ApplyError, ChangeSource};
use crate::change::record::{Record, Records};
use crate::change::{Relation, RelationId, RowChange};
use crate::spool::{Entry, PartReader, PartRef, Spool, SpoolPos};

/// Takes the changes of visible transactions.
pub(super) type Sink<'a, E> = &'a mut dyn FnMut(Xid, &RowChange<'_>) -> Result<(), E>;

/// A batch: what was pending, a range of the spool, and the snapshot that ends it.
pub struct BatchSource {
    spool: Arc<Spool>,
    from: At,
    plan: Plan,
    end: RefCell<Option<At>>,
}

impl BatchSource {
    pub(super) fn new(spool: Arc<Spool>, from: At, plan: Plan) -> BatchSource {
        BatchSource {
            spool,
            from,
            plan,
            end: RefCell::new(None),
        }
    }

    /// The state after the batch. A batch that was never drained left everything where it was.
    pub(super) fn into_end(self) -> At {
        self.end.into_inner().unwrap_or(self.from)
    }

    fn drain_batch(&self, sink: Sink<'_, ApplyError>) -> Result<(), ApplyError> {
        let snapshot = &self.plan.to.snapshot;
        let mut parts = PartReader::new(&self.spool);
        let mut left = Vec::new();
        for pending in &self.from.pending {
            if snapshot.sees(pending.xid) {
                feed_parts(&mut parts, pending.xid, &pending.parts, &pending.aborted, sink)?;
            } else {
                left.push(pending.clone());
            }
        }
        let mut open = self.from.open.clone();
        walk(
            &self.spool,
            self.from.cursor,
            self.plan.after,
            snapshot,
            &mut left,
            &mut open,
            Some(sink),
        )?;
        self.end.replace(Some(At {
            tick: self.plan.to.tick_id,
            snapshot: snapshot.clone(),
            time: self.plan.to.time,
            commit_lsn: self.plan.commit_lsn,
            cursor: self.plan.after,
            pending: left,
            open,
        }));
        Ok(())
    }
}

impl ChangeSource for BatchSource {
    fn relation(&self, id: RelationId) -> Option<Arc<Relation>> {
        self.spool.relation(id)
    }

    fn drain(&self, sink: Sink<'_, ApplyError>) -> Result<(), ApplyError> {
        self.drain_batch(sink)
    }
}

/// Reads entries from `from` up to `to`. Transactions that `snapshot` sees go to the sink, if there is
/// one; the others are added to `left`.
pub(super) fn walk<E: From<BatchError>>(
    spool: &Arc<Spool>,
    from: Cursor,
    to: Cursor,
    snapshot: &Snapshot,
    left: &mut Vec<Pending>,
    open: &mut HashMap<Xid32, SpoolPos>,
    mut sink: Option<Sink<'_, E>>,
) -> Result<(), E> {
    let mut reader = spool.reader(from.block);
    let mut parts = PartReader::new(spool);
    let reference = snapshot.xmax();
    while let Some(block) = reader.next_block().map_err(BatchError::from)? {
        let position = block.position();
        if position > to.block {
            break;
        }
        for (number, entry) in block.entries().enumerate() {
            let here = Cursor {
                block: position,
                entry: number,
            };
            if here < from {
                continue;
            }
            if here >= to {
                return Ok(());
            }
            match entry.map_err(BatchError::from)? {
                // The carrier of a tick alone. It is not visible to its own tick: left pending it would ask
                // for another tick, and that one for the next, without end.
                Entry::Transaction { row_count: 0, .. } => {}
                Entry::Transaction { head, rows, .. } => {
                    let xid = head.xid.widen(reference);
                    if !snapshot.sees(xid) {
                        left.push(Pending {
                            xid,
                            commit_lsn: head.commit_lsn,
                            parts: vec![rows],
                            aborted: Vec::new(),
                        });
                    } else if let Some(sink) = sink.as_mut() {
                        let run = block.rows(&rows).map_err(BatchError::from)?;
                        feed(xid, run, &[], *sink)?;
                    }
                }
                Entry::Commit {
                    head,
                    parts: list,
                    aborted,
                    ..
                } => {
                    let xid = head.xid.widen(reference);
                    open.remove(&head.xid);
                    if !snapshot.sees(xid) {
                        left.push(Pending {
                            xid,
                            commit_lsn: head.commit_lsn,
                            parts: list,
                            aborted,
                        });
                    } else if let Some(sink) = sink.as_mut() {
                        feed_parts(&mut parts, xid, &list, &aborted, *sink)?;
                    }
                }
                Entry::Part { xid, .. } => {
                    open.entry(xid).or_insert(position);
                }
                Entry::Abort { xid } => {
                    open.remove(&xid);
                }
                // The server sends unfinished transactions anew.
                Entry::Session { .. } => open.clear(),
                Entry::Tick(_) | Entry::Relation { .. } | Entry::Progress { .. } => {}
            }
        }
    }
    Ok(())
}

fn feed_parts<E: From<BatchError>>(
    reader: &mut PartReader,
    xid: Xid,
    parts: &[PartRef],
    aborted: &[Xid32],
    sink: Sink<'_, E>,
) -> Result<(), E> {
    for part in parts {
        let run = reader.rows(part).map_err(BatchError::from)?;
        feed(xid, run, aborted, sink)?;
    }
    Ok(())
}

#[inline]
fn feed<E: From<BatchError>>(xid: Xid, run: &[u8], aborted: &[Xid32], sink: Sink<'_, E>) -> Result<(), E> {
    let bad = |source| BatchError::Change {
        xid: xid.low_half().as_u32(),
        source,
    };
    let mut records = Records::new(run);
    let mut skip = false;
    while let Some(record) = records.next_record().map_err(bad)? {
        match record {
            Record::Subtransaction(subxid) => skip = aborted.contains(&subxid),
            Record::Change(_) if skip => {}
            Record::Change(change) => sink(xid, &change)?,
        }
    }
    Ok(())
}
