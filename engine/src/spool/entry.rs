//! Entries of a block's table of contents.

use skytide_sql::{Lsn, Snapshot, TickId, Xid, Xid32};

use super::error::Fault;
use super::format::{Fields, SpoolPos, length};
use crate::change::RelationId;

/// A committed transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TxHead {
    pub xid: Xid32,
    /// Where its commit record begins.
    pub commit_lsn: Lsn,
    /// Where its commit record ends.
    pub end_lsn: Lsn,
    /// Microseconds since 2000-01-01 UTC.
    pub commit_time: i64,
}

/// A run of row records inside a block's raw payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartRef {
    pub block: SpoolPos,
    pub offset: u32,
    pub len: u32,
}

/// A row of `pgq.tick`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TickEntry {
    pub tick_id: TickId,
    /// The last tick of this queue seen in this spool.
    pub previous: Option<TickId>,
    /// Microseconds since 2000-01-01 UTC.
    pub time: i64,
    pub event_seq: i64,
    pub snapshot: Snapshot,
    pub barrier: bool,
}

/// One step of the decoded stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry<'a> {
    /// A table's shape as pgoutput described it (the body of its Relation message). Repeated at the
    /// start of each segment that may need it.
    Relation { id: RelationId, message: &'a [u8] },
    /// A whole transaction.
    Transaction {
        head: TxHead,
        rows: PartRef,
        row_count: u32,
    },
    /// A piece of a large or streamed transaction that has not committed yet.
    Part {
        xid: Xid32,
        rows: PartRef,
        row_count: u32,
    },
    /// Makes earlier parts a transaction. `aborted` subtransactions' rows are not of it.
    Commit {
        head: TxHead,
        parts: Vec<PartRef>,
        aborted: Vec<Xid32>,
        row_count: u64,
        bytes: u64,
    },
    /// A streamed transaction gave up: its parts are garbage.
    Abort { xid: Xid32 },
    /// Belongs to the transaction entry just before it, the tick's own transaction.
    Tick(TickEntry),
    /// A new capture connection began: parts before this that have no commit before this are void.
    Session { from_lsn: Lsn },
    /// Nothing of this queue up to here.
    Progress { lsn: Lsn },
}

const RELATION: u8 = 1;
const TRANSACTION: u8 = 2;
const PART: u8 = 3;
const COMMIT: u8 = 4;
const ABORT: u8 = 5;
const TICK: u8 = 6;
const SESSION: u8 = 7;
const PROGRESS: u8 = 8;

const HEAD_SIZE: usize = 28;
const PART_REF_SIZE: usize = 16;
pub(super) const TRANSACTION_SIZE: usize = 1 + HEAD_SIZE + 12;
pub(super) const PART_SIZE: usize = 1 + 4 + 12;
pub(super) const ABORT_SIZE: usize = 1 + 4;
pub(super) const LSN_ENTRY_SIZE: usize = 1 + 8;

const TICK_HAS_PREVIOUS: u8 = 1;
const TICK_BARRIER: u8 = 2;

pub(super) fn relation_size(message: &[u8]) -> usize {
    1 + 4 + 4 + message.len()
}

pub(super) fn commit_size(parts: usize, aborted: usize) -> usize {
    1 + HEAD_SIZE + 24 + parts * PART_REF_SIZE + aborted * 4
}

pub(super) fn tick_size(snapshot: &Snapshot) -> usize {
    1 + 8 + 1 + 8 * 5 + 4 + 8 * snapshot.in_progress().len()
}

fn put_head(toc: &mut Vec<u8>, head: &TxHead) {
    toc.extend_from_slice(&head.xid.as_u32().to_le_bytes());
    toc.extend_from_slice(&head.commit_lsn.as_u64().to_le_bytes());
    toc.extend_from_slice(&head.end_lsn.as_u64().to_le_bytes());
    toc.extend_from_slice(&head.commit_time.to_le_bytes());
}

fn put_rows(toc: &mut Vec<u8>, rows: &PartRef, row_count: u32) {
    toc.extend_from_slice(&rows.offset.to_le_bytes());
    toc.extend_from_slice(&rows.len.to_le_bytes());
    toc.extend_from_slice(&row_count.to_le_bytes());
}

pub(super) fn put_relation(toc: &mut Vec<u8>, id: RelationId, message: &[u8]) {
    toc.push(RELATION);
    toc.extend_from_slice(&id.0.to_le_bytes());
    toc.extend_from_slice(&length(message.len()).to_le_bytes());
    toc.extend_from_slice(message);
}

#[inline]
pub(super) fn put_transaction(toc: &mut Vec<u8>, head: &TxHead, rows: &PartRef, row_count: u32) {
    toc.push(TRANSACTION);
    put_head(toc, head);
    put_rows(toc, rows, row_count);
}

pub(super) fn put_part(toc: &mut Vec<u8>, xid: Xid32, rows: &PartRef, row_count: u32) {
    toc.push(PART);
    toc.extend_from_slice(&xid.as_u32().to_le_bytes());
    put_rows(toc, rows, row_count);
}

pub(super) fn put_commit(
    toc: &mut Vec<u8>,
    head: &TxHead,
    parts: &[PartRef],
    aborted: &[Xid32],
    row_count: u64,
    bytes: u64,
) {
    toc.push(COMMIT);
    put_head(toc, head);
    toc.extend_from_slice(&row_count.to_le_bytes());
    toc.extend_from_slice(&bytes.to_le_bytes());
    toc.extend_from_slice(&length(parts.len()).to_le_bytes());
    toc.extend_from_slice(&length(aborted.len()).to_le_bytes());
    for part in parts {
        toc.extend_from_slice(&part.block.as_u64().to_le_bytes());
        toc.extend_from_slice(&part.offset.to_le_bytes());
        toc.extend_from_slice(&part.len.to_le_bytes());
    }
    for xid in aborted {
        toc.extend_from_slice(&xid.as_u32().to_le_bytes());
    }
}

pub(super) fn put_abort(toc: &mut Vec<u8>, xid: Xid32) {
    toc.push(ABORT);
    toc.extend_from_slice(&xid.as_u32().to_le_bytes());
}

pub(super) fn put_tick(toc: &mut Vec<u8>, tick: &TickEntry) {
    let previous = if tick.previous.is_some() {
        TICK_HAS_PREVIOUS
    } else {
        0
    };
    let barrier = if tick.barrier { TICK_BARRIER } else { 0 };
    let xip = tick.snapshot.in_progress();
    toc.push(TICK);
    toc.extend_from_slice(&tick.tick_id.get().to_le_bytes());
    toc.push(previous | barrier);
    toc.extend_from_slice(&tick.previous.map_or(0, TickId::get).to_le_bytes());
    toc.extend_from_slice(&tick.time.to_le_bytes());
    toc.extend_from_slice(&tick.event_seq.to_le_bytes());
    toc.extend_from_slice(&tick.snapshot.xmin().as_u64().to_le_bytes());
    toc.extend_from_slice(&tick.snapshot.xmax().as_u64().to_le_bytes());
    toc.extend_from_slice(&length(xip.len()).to_le_bytes());
    for xid in xip {
        toc.extend_from_slice(&xid.as_u64().to_le_bytes());
    }
}

pub(super) fn put_session(toc: &mut Vec<u8>, from_lsn: Lsn) {
    toc.push(SESSION);
    toc.extend_from_slice(&from_lsn.as_u64().to_le_bytes());
}

pub(super) fn put_progress(toc: &mut Vec<u8>, lsn: Lsn) {
    toc.push(PROGRESS);
    toc.extend_from_slice(&lsn.as_u64().to_le_bytes());
}

/// Reads a table of contents.
pub(super) struct TocReader<'a> {
    fields: Fields<'a>,
    block: SpoolPos,
    raw_len: usize,
    left: u32,
}

impl<'a> TocReader<'a> {
    pub fn new(toc: &'a [u8], block: SpoolPos, raw_len: usize, entries: u32) -> TocReader<'a> {
        TocReader {
            fields: Fields::new(toc),
            block,
            raw_len,
            left: entries,
        }
    }

    /// The next entry. A fault's offset counts from the start of the contents.
    #[inline]
    pub fn next_entry(&mut self) -> Result<Option<Entry<'a>>, Fault> {
        let at = self.fields.at();
        if self.left == 0 {
            return if self.fields.is_empty() {
                Ok(None)
            } else {
                Err(Fault::new(at, "the end of a block's contents", "more bytes"))
            };
        }
        self.left -= 1;
        let tag = self.fields.u8();
        match tag.and_then(|tag| self.entry(tag)) {
            Some(entry) => Ok(Some(entry)),
            None => {
                self.left = 0;
                self.fields = Fields::new(&[]);
                let found = tag.map_or("the end".to_owned(), |tag| format!("tag {tag} with bad fields"));
                Err(Fault::new(at, "a well-formed entry", found))
            }
        }
    }

    #[inline]
    fn entry(&mut self, tag: u8) -> Option<Entry<'a>> {
        let entry = match tag {
            RELATION => {
                let id = RelationId(self.fields.u32()?);
                let len = self.fields.u32()?;
                let message = self.fields.take(usize::try_from(len).ok()?)?;
                Entry::Relation { id, message }
            }
            TRANSACTION => {
                let head = self.head()?;
                let rows = self.rows()?;
                let row_count = self.fields.u32()?;
                Entry::Transaction {
                    head,
                    rows,
                    row_count,
                }
            }
            PART => {
                let xid = Xid32::new(self.fields.u32()?);
                let rows = self.rows()?;
                let row_count = self.fields.u32()?;
                Entry::Part { xid, rows, row_count }
            }
            COMMIT => self.commit()?,
            ABORT => Entry::Abort {
                xid: Xid32::new(self.fields.u32()?),
            },
            TICK => Entry::Tick(self.tick()?),
            SESSION => Entry::Session {
                from_lsn: Lsn::new(self.fields.u64()?),
            },
            PROGRESS => Entry::Progress {
                lsn: Lsn::new(self.fields.u64()?),
            },
            _ => return None,
        };
        Some(entry)
    }

    #[inline]
    fn head(&mut self) -> Option<TxHead> {
        Some(TxHead {
            xid: Xid32::new(self.fields.u32()?),
            commit_lsn: Lsn::new(self.fields.u64()?),
            end_lsn: Lsn::new(self.fields.u64()?),
            commit_time: self.fields.i64()?,
        })
    }

    #[inline]
    fn rows(&mut self) -> Option<PartRef> {
        let (offset, len) = (self.fields.u32()?, self.fields.u32()?);
        let end = offset.checked_add(len)?;
        (end as usize <= self.raw_len).then_some(PartRef {
            block: self.block,
            offset,
            len,
        })
    }

    fn commit(&mut self) -> Option<Entry<'a>> {
        let head = self.head()?;
        let (row_count, bytes) = (self.fields.u64()?, self.fields.u64()?);
        let (parts, aborted) = (self.fields.u32()?, self.fields.u32()?);
        // Taken before anything is allocated, so a lying count costs nothing.
        let mut parts = Fields::new(self.fields.take((parts as usize).checked_mul(PART_REF_SIZE)?)?);
        let mut aborted = Fields::new(self.fields.take((aborted as usize).checked_mul(4)?)?);
        let part = |f: &mut Fields<'_>| {
            Some(PartRef {
                block: SpoolPos::new(f.u64()?),
                offset: f.u32()?,
                len: f.u32()?,
            })
        };
        Some(Entry::Commit {
            head,
            parts: std::iter::from_fn(|| part(&mut parts)).collect(),
            aborted: std::iter::from_fn(|| aborted.u32().map(Xid32::new)).collect(),
            row_count,
            bytes,
        })
    }

    fn tick(&mut self) -> Option<TickEntry> {
        let tick_id = TickId::new(self.fields.i64()?);
        let flags = self.fields.u8()?;
        let previous = TickId::new(self.fields.i64()?);
        let (time, event_seq) = (self.fields.i64()?, self.fields.i64()?);
        let (xmin, xmax) = (Xid::new(self.fields.u64()?), Xid::new(self.fields.u64()?));
        let count = self.fields.u32()?;
        let mut xip = Fields::new(self.fields.take((count as usize).checked_mul(8)?)?);
        let xip = std::iter::from_fn(|| xip.u64().map(Xid::new)).collect();
        Some(TickEntry {
            tick_id,
            previous: (flags & TICK_HAS_PREVIOUS != 0).then_some(previous),
            time,
            event_seq,
            snapshot: Snapshot::new(xmin, xmax, xip).ok()?,
            barrier: flags & TICK_BARRIER != 0,
        })
    }
}
