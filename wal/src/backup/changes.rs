//! Which blocks have changed, by the WAL since a position.
//!
//! Block references name nearly every page that a record changes. What they leave out is known: files that come and
//! go and get shorter, whole databases, and the visibility and free space maps, which are changed beside the log; the
//! maps are never looked up here, a backup copies them whole.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::page::RelationPath;
use crate::commit::dropped_files;
use crate::decode::Record;
use crate::format::cursor::{Cursor, TooShort};
use crate::format::record::{Fork, RelationFile};
use crate::format::rmgr::Rmgr;
use crate::format::version::Major;

// `catalog/storage_xlog.h`
const STORAGE_CREATE: u8 = 0x10;
const STORAGE_TRUNCATE: u8 = 0x20;
const TRUNCATE_HEAP: u32 = 1;
// `catalog/pg_control.h`
const PARAMETER_CHANGE: u8 = 0x60;
/// `access/xlogrecord.h`, XLR_SPECIAL_REL_UPDATE: it changes files without naming their blocks.
const SPECIAL: u8 = 0x01;
const FIRST_CUSTOM: u8 = 128;

/// Blocks of one relation, sixty-four to a word.
const WORDS: usize = 64;
const CHUNK: u32 = WORDS as u32 * 64;

/// The WAL cannot tell what has changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unknowable {
    #[error("wal_level was minimal at {0}")]
    Minimal(skytide_sql::Lsn),
    #[error("the record at {0} is an extension's and changes files without naming blocks")]
    Extension(skytide_sql::Lsn),
    #[error("the record at {0} is too short")]
    Short(skytide_sql::Lsn),
}

#[derive(Debug, Default)]
struct Relation {
    /// From here on the file is another than it was.
    limit: Option<u32>,
    chunks: HashMap<u32, [u64; WORDS]>,
}

/// What has changed since a position.
#[derive(Debug, Default)]
pub struct Changes {
    relations: HashMap<RelationFile, Relation>,
    /// By tablespace: made or dropped.
    databases: HashSet<(u32, u32)>,
    blocks: u64,
}

/// What of a file has to be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToRead {
    All,
    /// Blocks of this file; none if nothing has changed.
    Blocks(BTreeSet<u32>),
}

impl Changes {
    /// How many blocks are on the list.
    pub fn blocks(&self) -> u64 {
        self.blocks
    }

    pub fn see(&mut self, record: &Record<'_>) -> Result<(), Unknowable> {
        for block in record.blocks() {
            if block.fork == Fork::MAIN {
                self.add(block.relation, block.block);
            }
        }
        let short = |_: TooShort| Unknowable::Short(record.lsn);
        let mut cursor = Cursor::new(record.main_data());
        match (record.rmgr(), record.header.opcode()) {
            (Rmgr::STORAGE, STORAGE_CREATE) => {
                let relation = RelationFile::parse(&mut cursor).map_err(short)?;
                if cursor.u32().map_err(short)? == u32::from(Fork::MAIN.as_u8()) {
                    self.cut(relation, 0);
                }
            }
            (Rmgr::STORAGE, STORAGE_TRUNCATE) => {
                let block = cursor.u32().map_err(short)?;
                let relation = RelationFile::parse(&mut cursor).map_err(short)?;
                if cursor.u32().map_err(short)? & TRUNCATE_HEAP != 0 {
                    self.cut(relation, block);
                }
            }
            (Rmgr::DATABASE, opcode) => self.database(record, opcode, &mut cursor).map_err(short)?,
            (Rmgr::TRANSACTION, _) => {
                for relation in dropped_files(record).map_err(short)? {
                    self.cut(relation, 0);
                }
            }
            (Rmgr::XLOG, PARAMETER_CHANGE) => {
                // Five numbers, then wal_level.
                cursor.take(20).map_err(short)?;
                if cursor.u32().map_err(short)? == 0 {
                    return Err(Unknowable::Minimal(record.lsn));
                }
            }
            (rmgr, _) if record.header.info & SPECIAL != 0 && rmgr.as_u8() >= FIRST_CUSTOM => {
                return Err(Unknowable::Extension(record.lsn));
            }
            _ => {}
        }
        Ok(())
    }

    /// `commands/dbcommands_xlog.h`. The numbers of the operations changed with 15.
    fn database(&mut self, record: &Record<'_>, opcode: u8, cursor: &mut Cursor<'_>) -> Result<(), TooShort> {
        let is_drop = match record.format().major < Major::V15 {
            true => opcode == 0x10,
            false => opcode == 0x20,
        };
        let database = cursor.u32()?;
        let tablespaces = if is_drop { cursor.u32()? } else { 1 };
        for _ in 0..tablespaces {
            self.databases.insert((cursor.u32()?, database));
        }
        Ok(())
    }

    fn add(&mut self, relation: RelationFile, block: u32) {
        let relation = self.relations.entry(relation).or_default();
        let chunk = relation.chunks.entry(block / CHUNK).or_insert([0; WORDS]);
        let place = block % CHUNK;
        if let Some(word) = usize::try_from(place / 64)
            .ok()
            .and_then(|word| chunk.get_mut(word))
        {
            let bit = 1 << (place % 64);
            self.blocks += u64::from(*word & bit == 0);
            *word |= bit;
        }
    }

    fn cut(&mut self, relation: RelationFile, block: u32) {
        let relation = self.relations.entry(relation).or_default();
        relation.limit = Some(relation.limit.map_or(block, |limit| limit.min(block)));
    }

    /// What of a main fork's file, which has so many blocks now and had so many before, has to be read.
    pub fn of(&self, path: &RelationPath, blocks: u32, before: u32) -> ToRead {
        if self.databases.contains(&(path.tablespace, path.database)) {
            return ToRead::All;
        }
        let key = RelationFile {
            tablespace: skytide_sql::Oid::new(path.tablespace),
            database: skytide_sql::Oid::new(path.database),
            number: path.number,
        };
        let first = path.first_block();
        let mut wanted = BTreeSet::new();
        if let Some(relation) = self.relations.get(&key) {
            let limit = relation.limit.unwrap_or(u32::MAX);
            if limit <= first {
                return ToRead::All;
            }
            let end = first.saturating_add(blocks);
            for (chunk, words) in &relation.chunks {
                for (place, word) in (0u32..).zip(words) {
                    let mut bits = *word;
                    while bits != 0 {
                        let block = chunk * CHUNK + place * 64 + bits.trailing_zeros();
                        bits &= bits - 1;
                        if (first..end).contains(&block) {
                            wanted.insert(block - first);
                        }
                    }
                }
            }
            if limit < end {
                wanted.extend(limit - first..blocks);
            }
        }
        // What the file has grown by need not have been logged: a server makes files longer by blocks of zeros.
        wanted.extend(before.min(blocks)..blocks);
        ToRead::Blocks(wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skytide_sql::Oid;

    fn relation(number: u32) -> RelationFile {
        RelationFile {
            tablespace: Oid::new(1663),
            database: Oid::new(5),
            number,
        }
    }

    fn of(changes: &Changes, path: &str, blocks: u32, before: u32) -> ToRead {
        changes.of(&RelationPath::parse(path).unwrap(), blocks, before)
    }

    fn blocks(blocks: &[u32]) -> ToRead {
        ToRead::Blocks(blocks.iter().copied().collect())
    }

    #[test]
    fn changed_cut_and_grown_files() {
        let mut changes = Changes::default();
        for block in [3, 3, 70, 5000, 131_072 + 7] {
            changes.add(relation(10), block);
        }
        assert_eq!(changes.blocks(), 4);
        assert_eq!(
            of(&changes, "base/5/10", 131_072, 131_072),
            blocks(&[3, 70, 5000])
        );
        assert_eq!(of(&changes, "base/5/10.1", 9, 9), blocks(&[7]));
        assert_eq!(
            of(&changes, "base/5/10", 71, 100),
            blocks(&[3, 70]),
            "it is shorter now"
        );
        assert_eq!(
            of(&changes, "base/5/10.1", 10, 8),
            blocks(&[7, 8, 9]),
            "it has grown"
        );
        assert_eq!(of(&changes, "base/5/11", 10, 10), blocks(&[]));

        changes.cut(relation(10), 72);
        changes.cut(relation(10), 74);
        assert_eq!(of(&changes, "base/5/10", 75, 100), blocks(&[3, 70, 72, 73, 74]));
        assert_eq!(of(&changes, "base/5/10.1", 9, 9), ToRead::All, "it is a new file");
        changes.cut(relation(12), 0);
        assert_eq!(of(&changes, "base/5/12", 1, 1), ToRead::All);
        changes.databases.insert((1663, 6));
        assert_eq!(of(&changes, "base/6/10", 1, 1), ToRead::All);
    }
}
