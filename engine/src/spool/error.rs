//! What can go wrong with a spool.

use std::io;
use std::path::{Path, PathBuf};

use super::SpoolPos;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpoolError {
    #[error("could not {action} {}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("no disk space for another spool segment in {}: free {bytes} bytes there, nothing is lost meanwhile", dir.display())]
    NoSpace { dir: PathBuf, bytes: u64 },
    #[error(
        "spool {} is full: another segment would exceed the {max_bytes} bytes of spool_max_bytes; \
         let the subscriber catch up or raise it", dir.display()
    )]
    Full { dir: PathBuf, max_bytes: u64 },
    #[error("spool {} is already open for writing by process {holder}: stop that one first", dir.display())]
    Locked { dir: PathBuf, holder: String },
    #[error(
        "spool {} belongs to {field} {found}, not {expected}: give this queue another spool directory, \
         or remove that one and resync", dir.display()
    )]
    Identity {
        field: &'static str,
        expected: String,
        found: String,
        dir: PathBuf,
    },
    #[error(
        "spool file {} is corrupt at byte {offset}: expected {expected}, found {found}; \
         remove the spool directory, then re-create the node or resync its tables", file.display()
    )]
    Corrupt {
        file: PathBuf,
        offset: u64,
        expected: &'static str,
        found: String,
    },
    #[error(
        "spool file {} has format version {found}, this program knows {expected}: use the program that wrote it",
        file.display()
    )]
    Version {
        file: PathBuf,
        expected: u32,
        found: u32,
    },
    #[error("spool {} stopped after a failed write ({cause}): reopen it to recover", dir.display())]
    Poisoned { dir: PathBuf, cause: String },
    #[error(
        "{bytes} bytes do not fit into a spool segment, {max} at most: a larger spool_segment_bytes, a new spool_dir and resync --all are needed"
    )]
    TooLarge { bytes: u64, max: u64 },
    #[error(
        "spool position {wanted} is no longer kept, the spool begins at {begin}: re-create the node or resync its tables"
    )]
    Released { wanted: SpoolPos, begin: SpoolPos },
    #[error("spool {} was removed or replaced while it was written: put it back, then start the worker again", dir.display())]
    Replaced { dir: PathBuf },
    #[error("spool directory {} has no segments", dir.display())]
    Empty { dir: PathBuf },
    #[error("bad spool setting {setting}: {why}")]
    Setting { setting: &'static str, why: String },
    #[error("bad relation message for the spool: {what}")]
    BadRelation { what: &'static str },
}

impl SpoolError {
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SpoolError {
        let path = path.to_owned();
        move |source| SpoolError::Io { action, path, source }
    }

    pub fn fault(&self) -> skytide_sql::fault::Fault {
        use skytide_sql::fault::Fault;
        match self {
            SpoolError::Full { .. } | SpoolError::NoSpace { .. } => Fault::Retry,
            SpoolError::Corrupt { .. } => Fault::Corrupt,
            SpoolError::BadRelation { .. } => Fault::Bug,
            _ => Fault::Operator,
        }
    }

    /// Whether the spool is this queue's and slot's own, but of a server that was there before.
    pub fn is_other_server(&self) -> bool {
        use super::recover::{SYSTEM, TIMELINE};
        matches!(self, SpoolError::Identity { field, .. } if [SYSTEM, TIMELINE].contains(field))
    }

    pub(super) fn is_full_disk(&self) -> bool {
        use io::ErrorKind::{QuotaExceeded, StorageFull};
        matches!(self, SpoolError::Io { source, .. } if [StorageFull, QuotaExceeded].contains(&source.kind()))
    }

    /// Whether room made by readers or by the administrator lets the same call succeed later.
    pub fn is_space(&self) -> bool {
        matches!(self, SpoolError::NoSpace { .. } | SpoolError::Full { .. })
    }
}

/// A broken place within a file, before the file's name is known.
#[derive(Debug)]
pub(super) struct Fault {
    pub offset: usize,
    pub expected: &'static str,
    pub found: String,
}

impl Fault {
    pub fn new(offset: usize, expected: &'static str, found: impl ToString) -> Fault {
        Fault {
            offset,
            expected,
            found: found.to_string(),
        }
    }

    pub fn in_file(self, file: &Path) -> SpoolError {
        SpoolError::Corrupt {
            file: file.to_owned(),
            offset: self.offset as u64,
            expected: self.expected,
            found: self.found,
        }
    }
}
