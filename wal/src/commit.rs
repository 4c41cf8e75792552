//! What commit and abort records say: which transaction, when. Loss windows and points in time are measured with it.

use skytide_sql::Xid32;

use crate::decode::Record;
use crate::format::cursor::{Cursor, TooShort};
use crate::format::record::RelationFile;
use crate::format::rmgr::Rmgr;
use crate::format::version::Format;
use crate::walsender::Timestamp;

// `access/xact.h`
const OPERATION: u8 = 0x70;
const COMMIT: u8 = 0x00;
const ABORT: u8 = 0x20;
const COMMIT_PREPARED: u8 = 0x30;
const ABORT_PREPARED: u8 = 0x40;
const HAS_INFO: u8 = 0x80;

const INFO_DATABASE: u32 = 1;
const INFO_SUBTRANSACTIONS: u32 = 1 << 1;
const INFO_RELATION_FILES: u32 = 1 << 2;
const INFO_INVALIDATIONS: u32 = 1 << 3;
const INFO_TWO_PHASE: u32 = 1 << 4;
const INFO_DROPPED_STATS: u32 = 1 << 8;

const RELATION_FILE: u64 = 12;
const INVALIDATION: u64 = 16;

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Outcome {
    Committed,
    Aborted,
}

/// The end of a transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TransactionEnd {
    pub outcome: Outcome,
    /// The transaction that ended. For a prepared one not the session's that ended it.
    pub xid: Xid32,
    /// It had been prepared (two-phase commit).
    pub prepared: bool,
    /// The server's clock when it ended.
    pub time: Timestamp,
    /// Subtransactions that ended with it.
    pub subtransactions: u32,
    /// Relation files that are dropped with it.
    pub dropped_files: u32,
}

impl TransactionEnd {
    /// `None` for other records, and for one that is too short for what it says it holds.
    pub fn of(record: &Record<'_>) -> Option<TransactionEnd> {
        if record.rmgr() != Rmgr::TRANSACTION {
            return None;
        }
        let (outcome, prepared) = match record.header.info & OPERATION {
            COMMIT => (Outcome::Committed, false),
            ABORT => (Outcome::Aborted, false),
            COMMIT_PREPARED => (Outcome::Committed, true),
            ABORT_PREPARED => (Outcome::Aborted, true),
            _ => return None,
        };
        let mut end = TransactionEnd {
            outcome,
            xid: record.xid(),
            prepared,
            time: Timestamp::from_micros(0),
            subtransactions: 0,
            dropped_files: 0,
        };
        end.read(record.header.info, record.main_data(), record.format())
            .ok()?;
        Some(end)
    }

    /// The parts in the order they are written (`ParseCommitRecord`, `ParseAbortRecord`).
    fn read(&mut self, info: u8, data: &[u8], format: &Format) -> Result<(), TooShort> {
        let mut cursor = Cursor::new(data);
        self.time = Timestamp::from_micros(cursor.i64()?);
        if info & HAS_INFO == 0 {
            return Ok(());
        }
        let flags = cursor.u32()?;
        let has = |flag: u32| flags & flag != 0;
        if has(INFO_DATABASE) {
            skip(&mut cursor, 8)?;
        }
        if has(INFO_SUBTRANSACTIONS) {
            self.subtransactions = cursor.u32()?;
            skip(&mut cursor, u64::from(self.subtransactions) * 4)?;
        }
        if has(INFO_RELATION_FILES) {
            self.dropped_files = cursor.u32()?;
            skip(&mut cursor, u64::from(self.dropped_files) * RELATION_FILE)?;
        }
        if format.dropped_stats_bytes > 0 && has(INFO_DROPPED_STATS) {
            let count = u64::from(cursor.u32()?);
            skip(&mut cursor, count * format.dropped_stats_bytes)?;
        }
        if has(INFO_INVALIDATIONS) && self.outcome == Outcome::Committed {
            let count = u64::from(cursor.u32()?);
            skip(&mut cursor, count * INVALIDATION)?;
        }
        if has(INFO_TWO_PHASE) {
            self.xid = Xid32::new(cursor.u32()?);
        }
        Ok(())
    }
}

/// The files that a transaction's end drops; none for other records.
pub fn dropped_files(record: &Record<'_>) -> Result<Vec<RelationFile>, TooShort> {
    let operation = record.header.info & OPERATION;
    let ends = [COMMIT, ABORT, COMMIT_PREPARED, ABORT_PREPARED].contains(&operation);
    if record.rmgr() != Rmgr::TRANSACTION || !ends || record.header.info & HAS_INFO == 0 {
        return Ok(Vec::new());
    }
    let mut cursor = Cursor::new(record.main_data());
    cursor.i64()?;
    let flags = cursor.u32()?;
    if flags & INFO_RELATION_FILES == 0 {
        return Ok(Vec::new());
    }
    if flags & INFO_DATABASE != 0 {
        skip(&mut cursor, 8)?;
    }
    if flags & INFO_SUBTRANSACTIONS != 0 {
        let count = u64::from(cursor.u32()?);
        skip(&mut cursor, count * 4)?;
    }
    let count = cursor.u32()?;
    (0..count).map(|_| RelationFile::parse(&mut cursor)).collect()
}

fn skip(cursor: &mut Cursor<'_>, bytes: u64) -> Result<(), TooShort> {
    cursor
        .take(usize::try_from(bytes).map_err(|_| TooShort)?)
        .map(drop)
}
