//! What a restore that has not ended leaves behind, so that it and nobody else goes on there.
//!
//! In the data directory [`MARKER`] has the cluster's system identifier in its first line, then for each tablespace its
//! OID, a space and its place, ended by a zero byte: a path may have line breaks. In a tablespace's place a file of the same name has the data
//! directory's path.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::MARKER;
use crate::durable::{self, FileError};

/// What the marker of a data directory says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Unfinished {
    pub system_id: u64,
    /// By OID.
    pub tablespaces: Vec<(u32, PathBuf)>,
}

impl Unfinished {
    /// `None` if there is no marker that can be read.
    pub fn read(data: &Path) -> Option<Unfinished> {
        let bytes = std::fs::read(data.join(MARKER)).ok()?;
        Unfinished::parse(&bytes)
    }

    fn parse(bytes: &[u8]) -> Option<Unfinished> {
        let (first, rest) = bytes.split_at(bytes.iter().position(|byte| *byte == b'\n')?);
        let number = |bytes: &[u8]| std::str::from_utf8(bytes).ok()?.trim().parse::<u64>().ok();
        let place = |entry: &[u8]| {
            let (oid, path) = entry.split_at(entry.iter().position(|byte| *byte == b' ')?);
            let path = PathBuf::from(OsStr::from_bytes(path.get(1..)?));
            Some((u32::try_from(number(oid)?).ok()?, path))
        };
        let entries = rest.get(1..)?.split(|byte| *byte == 0);
        Some(Unfinished {
            system_id: number(first)?,
            tablespaces: entries.filter_map(place).collect(),
        })
    }

    pub fn write(&self, data: &Path) -> Result<(), FileError> {
        let mut bytes = format!("{}\n", self.system_id).into_bytes();
        for (oid, place) in &self.tablespaces {
            bytes.extend(format!("{oid} ").as_bytes());
            bytes.extend(place.as_os_str().as_bytes());
            bytes.push(0);
        }
        durable::replace(&data.join(MARKER), &bytes)
    }
}

/// Marks a tablespace's place as being restored for a data directory.
pub(super) fn mark_place(place: &Path, data: &Path) -> Result<(), FileError> {
    durable::replace(&place.join(MARKER), data.as_os_str().as_bytes())
}

pub(super) fn is_marked(place: &Path, data: &Path) -> bool {
    std::fs::read(place.join(MARKER)).is_ok_and(|bytes| bytes == data.as_os_str().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_says_what_was_written() {
        let tmp = tempfile::tempdir().unwrap();
        let unfinished = Unfinished {
            system_id: 7_600_000_000_000_000_001,
            tablespaces: vec![(16_385, "/srv/a b".into()), (16_386, "/srv/line\nbreak".into())],
        };
        unfinished.write(tmp.path()).unwrap();
        assert_eq!(Unfinished::read(tmp.path()), Some(unfinished));
        // As older programs wrote it, and as nobody did.
        assert_eq!(Unfinished::parse(b"7\n").unwrap().system_id, 7);
        for bad in [&b""[..], b"7", b"x\n"] {
            assert_eq!(Unfinished::parse(bad), None);
        }
    }
}
