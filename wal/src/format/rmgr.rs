//! Resource managers and what their records are called (`access/rmgrlist.h`, `access/rmgrdesc/*.c`).

use std::fmt;

use super::version::{Format, Major};

/// Who wrote a record and will redo it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Rmgr(u8);

impl Rmgr {
    pub const XLOG: Rmgr = Rmgr(0);
    pub const TRANSACTION: Rmgr = Rmgr(1);
    pub const STORAGE: Rmgr = Rmgr(2);
    pub const DATABASE: Rmgr = Rmgr(4);
    pub const STANDBY: Rmgr = Rmgr(8);
    pub const HEAP2: Rmgr = Rmgr(9);
    pub const HEAP: Rmgr = Rmgr(10);

    pub const fn new(id: u8) -> Rmgr {
        Rmgr(id)
    }

    pub const fn as_u8(self) -> u8 {
        self.0
    }

    /// Whether a server of this format has it.
    #[inline]
    pub const fn exists(self, format: &Format) -> bool {
        (self.0 as usize) < BUILT_IN.len() || (format.custom_rmgrs && self.0 >= FIRST_CUSTOM)
    }

    /// What a record with this `info` is called, as `pg_waldump` prints it; `None` for an extension's records and
    /// for opcodes this major does not have.
    pub fn operation(self, info: u8, major: Major) -> Option<&'static str> {
        operation(self, info & 0xF0, major)
    }
}

impl fmt::Display for Rmgr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match BUILT_IN.get(usize::from(self.0)) {
            Some(name) => f.pad(name),
            None => f.pad(&format!("custom{:03}", self.0)),
        }
    }
}

const FIRST_CUSTOM: u8 = 128;

/// The same ids in 13 to 18.
const BUILT_IN: [&str; 22] = [
    "XLOG",
    "Transaction",
    "Storage",
    "CLOG",
    "Database",
    "Tablespace",
    "MultiXact",
    "RelMap",
    "Standby",
    "Heap2",
    "Heap",
    "Btree",
    "Hash",
    "Gin",
    "Gist",
    "Sequence",
    "SPGist",
    "BRIN",
    "CommitTs",
    "ReplicationOrigin",
    "Generic",
    "LogicalMessage",
];

/// Opcodes of one resource manager, in order; an empty name is no opcode.
type Names = &'static [&'static str];

const XLOG: Names = &[
    "CHECKPOINT_SHUTDOWN",
    "CHECKPOINT_ONLINE",
    "NOOP",
    "NEXTOID",
    "SWITCH",
    "BACKUP_END",
    "PARAMETER_CHANGE",
    "RESTORE_POINT",
    "FPW_CHANGE",
    "END_OF_RECOVERY",
    "FPI_FOR_HINT",
    "FPI",
    "",
    "OVERWRITE_CONTRECORD",
    "CHECKPOINT_REDO",
];
const TRANSACTION: Names = &[
    "COMMIT",
    "PREPARE",
    "ABORT",
    "COMMIT_PREPARED",
    "ABORT_PREPARED",
    "ASSIGNMENT",
    "INVALIDATION",
];
const HEAP: Names = &[
    "INSERT",
    "DELETE",
    "UPDATE",
    "TRUNCATE",
    "HOT_UPDATE",
    "HEAP_CONFIRM",
    "LOCK",
    "INPLACE",
];
const HEAP_INIT: Names = &["INSERT+INIT", "", "UPDATE+INIT", "", "HOT_UPDATE+INIT"];
const HEAP2_13: Names = &[
    "REWRITE",
    "CLEAN",
    "FREEZE_PAGE",
    "CLEANUP_INFO",
    "VISIBLE",
    "MULTI_INSERT",
    "LOCK_UPDATED",
    "NEW_CID",
];
const HEAP2_14: Names = &[
    "REWRITE",
    "PRUNE",
    "VACUUM",
    "FREEZE_PAGE",
    "VISIBLE",
    "MULTI_INSERT",
    "LOCK_UPDATED",
    "NEW_CID",
];
const HEAP2_17: Names = &[
    "REWRITE",
    "PRUNE_ON_ACCESS",
    "PRUNE_VACUUM_SCAN",
    "PRUNE_VACUUM_CLEANUP",
    "VISIBLE",
    "MULTI_INSERT",
    "LOCK_UPDATED",
    "NEW_CID",
];
const BTREE: Names = &[
    "INSERT_LEAF",
    "INSERT_UPPER",
    "INSERT_META",
    "SPLIT_L",
    "SPLIT_R",
    "INSERT_POST",
    "DEDUP",
    "DELETE",
    "UNLINK_PAGE",
    "UNLINK_PAGE_META",
    "NEWROOT",
    "MARK_PAGE_HALFDEAD",
    "VACUUM",
    "REUSE_PAGE",
    "META_CLEANUP",
];
const HASH: Names = &[
    "INIT_META_PAGE",
    "INIT_BITMAP_PAGE",
    "INSERT",
    "ADD_OVFL_PAGE",
    "SPLIT_ALLOCATE_PAGE",
    "SPLIT_PAGE",
    "SPLIT_COMPLETE",
    "MOVE_PAGE_CONTENTS",
    "SQUEEZE_PAGE",
    "DELETE",
    "SPLIT_CLEANUP",
    "UPDATE_META_PAGE",
    "VACUUM_ONE_PAGE",
];
const GIN: Names = &[
    "",
    "CREATE_PTREE",
    "INSERT",
    "SPLIT",
    "VACUUM_PAGE",
    "DELETE_PAGE",
    "UPDATE_META_PAGE",
    "INSERT_LISTPAGE",
    "DELETE_LISTPAGE",
    "VACUUM_DATA_LEAF_PAGE",
];
const GIST: Names = &[
    "PAGE_UPDATE",
    "DELETE",
    "PAGE_REUSE",
    "PAGE_SPLIT",
    "",
    "",
    "PAGE_DELETE",
    "ASSIGN_LSN",
];
const SPGIST: Names = &[
    "",
    "ADD_LEAF",
    "MOVE_LEAFS",
    "ADD_NODE",
    "SPLIT_TUPLE",
    "PICKSPLIT",
    "VACUUM_LEAF",
    "VACUUM_ROOT",
    "VACUUM_REDIRECT",
];
const BRIN: Names = &[
    "CREATE_INDEX",
    "INSERT",
    "UPDATE",
    "SAMEPAGE_UPDATE",
    "REVMAP_EXTEND",
    "DESUMMARIZE",
];
const BRIN_INIT: Names = &["", "INSERT+INIT", "UPDATE+INIT"];

fn operation(rmgr: Rmgr, opcode: u8, major: Major) -> Option<&'static str> {
    let init = opcode & 0x80 != 0;
    let low = opcode & 0x70;
    let (names, opcode): (Names, u8) = match rmgr.0 {
        0 if opcode == 0xE0 && major < Major::V17 => return None,
        0 => (XLOG, opcode),
        // The high bit only says that more data follows.
        1 if low == 0x60 && major < Major::V14 => return None,
        1 => (TRANSACTION, low),
        2 => (&["", "CREATE", "TRUNCATE"], opcode),
        3 => (&["ZEROPAGE", "TRUNCATE"], opcode),
        4 if major < Major::V15 => (&["CREATE", "DROP"], opcode),
        4 => (&["CREATE_FILE_COPY", "CREATE_WAL_LOG", "DROP"], opcode),
        5 => (&["CREATE", "DROP"], opcode),
        6 => (
            &["ZERO_OFF_PAGE", "ZERO_MEM_PAGE", "CREATE_ID", "TRUNCATE_ID"],
            opcode,
        ),
        7 => (&["UPDATE"], opcode),
        8 => (&["LOCK", "RUNNING_XACTS", "INVALIDATIONS"], opcode),
        9 if low == 0x50 && init => return Some("MULTI_INSERT+INIT"),
        9 if major < Major::V14 => (HEAP2_13, low),
        9 if major < Major::V17 => (HEAP2_14, low),
        9 => (HEAP2_17, low),
        10 if init => (HEAP_INIT, low),
        10 => (HEAP, low),
        11 => (BTREE, opcode),
        12 => (HASH, opcode),
        13 => (GIN, opcode),
        14 => (GIST, opcode),
        15 => (&["LOG"], opcode),
        16 => (SPGIST, opcode),
        17 if init => (BRIN_INIT, low),
        17 => (BRIN, low),
        18 => (&["ZEROPAGE", "TRUNCATE"], opcode),
        19 => (&["SET", "DROP"], opcode),
        20 => (&["Generic"], opcode),
        21 => (&["MESSAGE"], opcode),
        _ => return None,
    };
    names
        .get(usize::from(opcode >> 4))
        .copied()
        .filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_major() {
        let heap2 = |major| Rmgr::HEAP2.operation(0x10, major);
        assert_eq!(heap2(Major::V13), Some("CLEAN"));
        assert_eq!(heap2(Major::V16), Some("PRUNE"));
        assert_eq!(heap2(Major::V18), Some("PRUNE_ON_ACCESS"));
        assert_eq!(Rmgr::XLOG.operation(0xE0, Major::V16), None);
        assert_eq!(Rmgr::XLOG.operation(0xE0, Major::V17), Some("CHECKPOINT_REDO"));
        assert_eq!(Rmgr::TRANSACTION.operation(0x80, Major::V15), Some("COMMIT"));
        assert_eq!(Rmgr::HEAP.operation(0x80, Major::V15), Some("INSERT+INIT"));
    }

    #[test]
    fn managers_22_to_127_do_not_exist() {
        let old = Format::of_major(Major::V14);
        let new = Format::of_major(Major::V15);
        assert!(Rmgr::new(21).exists(old) && !Rmgr::new(22).exists(new) && !Rmgr::new(127).exists(new));
        assert!(Rmgr::new(128).exists(new) && !Rmgr::new(128).exists(old));
        assert_eq!(Rmgr::new(128).to_string(), "custom128");
    }
}
