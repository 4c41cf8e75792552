//! Puts messages together into transactions and ticks and hands them to the spool.
//!
//! A transaction that fits a block goes to the spool whole, at its commit. A larger one, and every
//! streamed one, goes there in parts as it comes, so memory stays bounded; its commit links the parts.
//! Rows of `pgq.tick` become tick entries and nothing else of them is kept.

use hashbrown::HashMap;
use skytide_sql::{Lsn, Oid, TableName, TickId, Xid32};

use super::pgoutput::{self, BadMessage, Message, RowKind, Within};
use super::tick::{TickColumns, TickRow, tick_row};
use crate::change::{ColumnValue, Relation, RelationId, Tuple, names_an_object};
use crate::spool::{PartRef, SpoolError, TickEntry, TxHead, Writer};

/// Rows of one transaction beyond this go to the spool before its commit.
const PART_BYTES: usize = 192 * 1024;

/// Type of the event that marks the tick of its own transaction as a barrier.
pub const BARRIER_EVENT: &str = "londiste.barrier";

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AssembleError {
    #[error(transparent)]
    Message(#[from] BadMessage),
    #[error(transparent)]
    Spool(#[from] SpoolError),
    #[error("the provider sent {what}")]
    Protocol { what: &'static str },
    #[error("the provider sent a change of table {oid} before its definition")]
    UnknownRelation { oid: Oid },
    #[error("table {table} has a column whose binary values are numbers of objects")]
    NotPortable { table: TableName },
    #[error("cannot read a row of pgq.tick: {what}")]
    BadTick { what: &'static str },
}

/// What a message did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Nothing,
    /// A transaction with row changes is in the spool.
    Changes,
    /// A tick is: readers can cut a batch.
    Tick,
    /// A transaction without anything of ours ended at this position.
    Empty(Lsn),
}

#[derive(Clone, Copy)]
enum Meaning {
    /// A table, or an event table of our queue.
    Rows,
    /// An event table: rows, and perhaps the mark of a barrier. The column of `ev_type`.
    Events {
        type_column: usize,
    },
    Ticks(TickColumns),
}

#[derive(Clone, Copy)]
struct Known {
    id: RelationId,
    meaning: Meaning,
}

/// Rows of a transaction that are not in the spool yet, and what is.
#[derive(Default)]
struct Open {
    rows: Vec<u8>,
    rows_count: u32,
    parts: Vec<PartRef>,
    parts_count: u64,
    parts_bytes: u64,
    ticks: Vec<TickRow>,
    barrier: bool,
}

#[derive(Default)]
struct Streamed {
    open: Open,
    /// Definitions sent within this transaction: an abort takes them back.
    relations: HashMap<Oid, Known>,
    aborted: Vec<Xid32>,
    /// Whose changes were appended last.
    writer_xid: Option<Xid32>,
}

enum State {
    Between,
    InTransaction(Xid32),
    InStream(Xid32),
}

/// The state of one replication connection.
pub struct Assembler {
    queue_id: i32,
    /// Values come in binary form.
    binary: bool,
    state: State,
    transaction: Open,
    streams: HashMap<Xid32, Streamed>,
    relations: HashMap<Oid, Known>,
    last_tick: Option<TickId>,
}

impl Assembler {
    /// `queue_id` is the queue's on the provider; `last_tick` the newest one in the spool.
    pub fn new(queue_id: i32, binary: bool, last_tick: Option<TickId>) -> Assembler {
        Assembler {
            queue_id,
            binary,
            state: State::Between,
            transaction: Open::default(),
            streams: HashMap::new(),
            relations: HashMap::new(),
            last_tick,
        }
    }

    /// Whether nothing received is still outside the spool.
    pub fn is_idle(&self) -> bool {
        matches!(self.state, State::Between) && self.streams.is_empty()
    }

    /// Takes one pgoutput message.
    ///
    /// # Errors
    /// After an error the connection's state is void: reconnect from the spool's end.
    #[inline]
    pub fn message(&mut self, payload: &[u8], writer: &mut Writer) -> Result<Step, AssembleError> {
        let within = match self.state {
            State::InStream(_) => Within::StreamBlock,
            _ => Within::Transaction,
        };
        match pgoutput::decode(payload, within)? {
            Message::Row {
                kind,
                subxid,
                oid,
                tuples,
            } => {
                self.row(kind, subxid, oid, tuples, writer)?;
                Ok(Step::Nothing)
            }
            Message::Begin { xid } => match self.state {
                State::Between => {
                    self.state = State::InTransaction(xid);
                    Ok(Step::Nothing)
                }
                _ => Err(protocol("a transaction inside another one")),
            },
            Message::Commit {
                commit_lsn,
                end_lsn,
                time,
            } => match self.state {
                State::InTransaction(xid) => {
                    self.state = State::Between;
                    let head = TxHead {
                        xid,
                        commit_lsn,
                        end_lsn,
                        commit_time: time,
                    };
                    let step = commit(&mut self.transaction, head, &[], &mut self.last_tick, writer)?;
                    self.transaction.clear();
                    Ok(step)
                }
                _ => Err(protocol("a commit outside a transaction")),
            },
            Message::Relation { oid, body } => {
                self.relation(oid, body, writer)?;
                Ok(Step::Nothing)
            }
            Message::Truncate { subxid, flags, oids } => {
                self.truncate(subxid, flags, oids, writer)?;
                Ok(Step::Nothing)
            }
            Message::StreamStart { xid, first } => match self.state {
                State::Between => {
                    if first {
                        self.streams.insert(xid, Streamed::default());
                    } else if !self.streams.contains_key(&xid) {
                        return Err(protocol(
                            "a later block of a transaction whose first one is missing",
                        ));
                    }
                    self.state = State::InStream(xid);
                    Ok(Step::Nothing)
                }
                _ => Err(protocol("a stream block inside a transaction")),
            },
            Message::StreamStop => match self.state {
                State::InStream(xid) => {
                    self.state = State::Between;
                    let streamed = self
                        .streams
                        .get_mut(&xid)
                        .ok_or(protocol("a block of no transaction"))?;
                    flush_part(&mut streamed.open, xid, writer)?;
                    // The next run of rows starts anew: it must say whose they are.
                    streamed.writer_xid = None;
                    Ok(Step::Nothing)
                }
                _ => Err(protocol("the end of a stream block outside one")),
            },
            Message::StreamCommit {
                xid,
                commit_lsn,
                end_lsn,
                time,
            } => {
                let mut streamed = self
                    .streams
                    .remove(&xid)
                    .ok_or(protocol("the commit of no stream"))?;
                let head = TxHead {
                    xid,
                    commit_lsn,
                    end_lsn,
                    commit_time: time,
                };
                let aborted = std::mem::take(&mut streamed.aborted);
                streamed
                    .open
                    .ticks
                    .retain(|t| !t.subxid.is_some_and(|x| aborted.contains(&x)));
                // From its commit on the server counts the definitions sent in a stream as sent for all
                // (pgoutput.c, cleanup_rel_sync_cache).
                self.relations.extend(streamed.relations.drain());
                commit(&mut streamed.open, head, &aborted, &mut self.last_tick, writer)
            }
            Message::StreamAbort { xid, subxid } if xid == subxid => {
                if self.streams.remove(&xid).is_some() {
                    writer.abort(xid)?;
                }
                Ok(Step::Nothing)
            }
            Message::StreamAbort { xid, subxid } => {
                if let Some(streamed) = self.streams.get_mut(&xid) {
                    streamed.aborted.push(subxid);
                }
                Ok(Step::Nothing)
            }
            Message::Other => Ok(Step::Nothing),
        }
    }

    fn relation(&mut self, oid: Oid, body: &[u8], writer: &mut Writer) -> Result<(), AssembleError> {
        let id = writer.relation(body)?;
        let relation = writer.shape(id).ok_or(protocol("a malformed table definition"))?;
        // One that was altered since the stream began: no row of it is in the spool yet.
        if self.binary && relation.columns.iter().any(|c| names_an_object(c.type_oid)) {
            return Err(AssembleError::NotPortable {
                table: relation.table.clone(),
            });
        }
        let known = Known {
            id,
            meaning: meaning(&relation, self.queue_id)?,
        };
        match self.state {
            State::InStream(xid) => {
                let streamed = self
                    .streams
                    .get_mut(&xid)
                    .ok_or(protocol("a block of no transaction"))?;
                streamed.relations.insert(oid, known);
            }
            _ => {
                self.relations.insert(oid, known);
            }
        }
        Ok(())
    }

    #[inline]
    fn row(
        &mut self,
        kind: RowKind,
        subxid: Option<Xid32>,
        oid: Oid,
        tuples: &[u8],
        writer: &mut Writer,
    ) -> Result<(), AssembleError> {
        let queue_id = self.queue_id;
        let (xid, open, known) = match self.state {
            State::InTransaction(xid) => (xid, &mut self.transaction, self.relations.get(&oid)),
            State::InStream(xid) => {
                let streamed = self
                    .streams
                    .get_mut(&xid)
                    .ok_or(protocol("a block of no transaction"))?;
                mark_subtransaction(streamed, subxid);
                let known = streamed.relations.get(&oid).or_else(|| self.relations.get(&oid));
                (xid, &mut streamed.open, known)
            }
            State::Between => return Err(protocol("a row outside a transaction")),
        };
        let known = *known.ok_or(AssembleError::UnknownRelation { oid })?;
        match known.meaning {
            Meaning::Rows => {}
            Meaning::Events { type_column } => {
                open.barrier |= kind == RowKind::Insert && event_is_barrier(tuples, type_column);
            }
            Meaning::Ticks(columns) => {
                // Rotation deletes ticks; the publication sends inserts only.
                if kind == RowKind::Insert
                    && let Some(tick) = tick_row(tuples, &columns, queue_id, subxid)?
                {
                    open.ticks.push(tick);
                }
                return Ok(());
            }
        }
        push_record(&mut open.rows, kind.letter(), known.id.0, tuples);
        open.rows_count += 1;
        if open.rows.len() >= PART_BYTES {
            flush_part(open, xid, writer)?;
            if let Some(streamed) = self.streams.get_mut(&xid) {
                streamed.writer_xid = None;
            }
        }
        Ok(())
    }

    fn truncate(
        &mut self,
        subxid: Option<Xid32>,
        flags: u8,
        oids: &[u8],
        writer: &mut Writer,
    ) -> Result<(), AssembleError> {
        let (xid, open, local) = match self.state {
            State::InTransaction(xid) => (xid, &mut self.transaction, None),
            State::InStream(xid) => {
                let streamed = self
                    .streams
                    .get_mut(&xid)
                    .ok_or(protocol("a block of no transaction"))?;
                mark_subtransaction(streamed, subxid);
                (xid, &mut streamed.open, Some(&streamed.relations))
            }
            State::Between => return Err(protocol("a truncate outside a transaction")),
        };
        let mut ids = vec![flags];
        for oid in oids.chunks_exact(4) {
            let oid = Oid::new(u32::from_be_bytes([oid[0], oid[1], oid[2], oid[3]]));
            let known = local
                .and_then(|l| l.get(&oid))
                .or_else(|| self.relations.get(&oid));
            let known = known.ok_or(AssembleError::UnknownRelation { oid })?;
            ids.extend_from_slice(&known.id.0.to_be_bytes());
        }
        let count = (oids.len() / 4) as u32;
        push_record(&mut open.rows, b'T', count, &ids);
        open.rows_count += 1;
        if open.rows.len() >= PART_BYTES {
            flush_part(open, xid, writer)?;
            // The next part must say again whose rows it has.
            if let Some(streamed) = self.streams.get_mut(&xid) {
                streamed.writer_xid = None;
            }
        }
        Ok(())
    }
}

impl Open {
    fn clear(&mut self) {
        self.rows.clear();
        self.rows.shrink_to(2 * PART_BYTES);
        self.rows_count = 0;
        self.parts = Vec::new();
        self.parts_count = 0;
        self.parts_bytes = 0;
        self.ticks.clear();
        self.barrier = false;
    }
}

fn protocol(what: &'static str) -> AssembleError {
    AssembleError::Protocol { what }
}

/// `u32 length | kind | word | rest`: see `change::record`.
#[inline]
fn push_record(rows: &mut Vec<u8>, kind: u8, word: u32, rest: &[u8]) {
    rows.reserve(9 + rest.len());
    rows.extend_from_slice(&(5 + rest.len() as u32).to_le_bytes());
    rows.push(kind);
    rows.extend_from_slice(&word.to_be_bytes());
    rows.extend_from_slice(rest);
}

fn mark_subtransaction(streamed: &mut Streamed, subxid: Option<Xid32>) {
    if streamed.writer_xid != subxid {
        streamed.writer_xid = subxid;
        if let Some(subxid) = subxid {
            push_record(&mut streamed.open.rows, b'X', subxid.as_u32(), &[]);
        }
    }
}

fn flush_part(open: &mut Open, xid: Xid32, writer: &mut Writer) -> Result<(), AssembleError> {
    if open.rows.is_empty() {
        return Ok(());
    }
    open.parts.push(writer.part(xid, &open.rows, open.rows_count)?);
    open.parts_count += u64::from(open.rows_count);
    open.parts_bytes += open.rows.len() as u64;
    open.rows.clear();
    open.rows_count = 0;
    fail::fail_point!("capture::after_part");
    Ok(())
}

fn commit(
    open: &mut Open,
    head: TxHead,
    aborted: &[Xid32],
    last_tick: &mut Option<TickId>,
    writer: &mut Writer,
) -> Result<Step, AssembleError> {
    let mut ticks = Vec::with_capacity(open.ticks.len());
    for tick in open.ticks.drain(..) {
        ticks.push(TickEntry {
            tick_id: tick.id,
            previous: *last_tick,
            time: tick.time,
            event_seq: tick.event_seq,
            snapshot: tick.snapshot,
            barrier: open.barrier,
        });
        *last_tick = Some(tick.id);
    }
    let rows = open.parts_count + u64::from(open.rows_count);
    if open.parts.is_empty() {
        if rows == 0 && ticks.is_empty() {
            return Ok(Step::Empty(head.end_lsn));
        }
        writer.transaction(head, &open.rows, open.rows_count)?;
    } else {
        flush_part(open, head.xid, writer)?;
        let parts = std::mem::take(&mut open.parts);
        writer.commit(head, parts, aborted.to_vec(), rows, open.parts_bytes)?;
    }
    fail::fail_point!("capture::after_append");
    let step = if ticks.is_empty() {
        Step::Changes
    } else {
        Step::Tick
    };
    // The spool keeps room for ticks in the block of their transaction: they are there together or not.
    for tick in ticks {
        writer.tick(tick)?;
    }
    Ok(step)
}

fn meaning(relation: &Relation, queue_id: i32) -> Result<Meaning, AssembleError> {
    let column = |name: &str| relation.columns.iter().position(|c| c.name == name);
    if relation.table.schema != "pgq" {
        return Ok(Meaning::Rows);
    }
    if relation.table.name == "tick" {
        return TickColumns::of(relation).map(Meaning::Ticks);
    }
    if relation.table.name.starts_with(&format!("event_{queue_id}_"))
        && let Some(type_column) = column("ev_type")
    {
        return Ok(Meaning::Events { type_column });
    }
    Ok(Meaning::Rows)
}

fn event_is_barrier(tuples: &[u8], type_column: usize) -> bool {
    let Some(Ok((tuple, _))) = tuples.strip_prefix(b"N").map(Tuple::split_from) else {
        return false;
    };
    // text has the same bytes in both formats
    matches!(
        tuple.values().nth(type_column),
        Some(ColumnValue::Text(v) | ColumnValue::Binary(v)) if v == BARRIER_EVENT.as_bytes()
    )
}
