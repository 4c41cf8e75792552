//! A server's data directory, read beside the server or after its death.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use skytide_sql::Lsn;

use super::ShipError;
use crate::control::{self, ControlFile};
use crate::durable::{Attach, FileError};
use crate::tail::names_of;
use crate::{HistoryFile, SegmentName, SegmentNo, SegmentSize, TimelineId};

/// A live server rewrites its control file in place; a reader may see half of that.
const CONTROL_READS: usize = 50;

#[derive(Debug, Clone)]
pub(crate) struct WalDir {
    pg_wal: PathBuf,
    size: SegmentSize,
}

impl WalDir {
    pub fn new(data_dir: &Path, size: SegmentSize) -> WalDir {
        WalDir {
            pg_wal: data_dir.join("pg_wal"),
            size,
        }
    }

    /// What history the timeline has, by the file beside the segments, and that file's text.
    pub fn history(&self, timeline: TimelineId) -> Result<(HistoryFile, Option<Vec<u8>>), ShipError> {
        if timeline.as_u32() == 1 {
            return Ok((HistoryFile::root(timeline), None));
        }
        let path = self.pg_wal.join(format!("{:08X}.history", timeline.as_u32()));
        let text = std::fs::read(&path).to("read", &path)?;
        let history = HistoryFile::parse(timeline, &String::from_utf8_lossy(&text))
            .map_err(|source| ShipError::History { path, source })?;
        Ok((history, Some(text)))
    }

    /// The file that has the segment on the way to a timeline: of the segment in which a timeline ends, the next
    /// timeline's, which begins with the same bytes (`xlogreader.c`, `wal_segment_open`).
    fn open(
        &self,
        path: &HistoryFile,
        number: SegmentNo,
    ) -> Result<Option<(SegmentName, File, PathBuf)>, FileError> {
        for name in names_of(path, number, self.size) {
            let file = self.pg_wal.join(name.to_string());
            match File::open(&file) {
                Ok(open) => return Ok(Some((name, open, file))),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(FileError::new("open", &file, error)),
            }
        }
        Ok(None)
    }

    /// Up to `most` bytes from `from` on, not beyond its segment; fewer if the file is shorter. `None` if there is no
    /// such file.
    pub fn read(&self, path: &HistoryFile, from: Lsn, most: u64) -> Result<Option<Vec<u8>>, FileError> {
        let number = SegmentNo::holding(from, self.size);
        let Some((_, file, name)) = self.open(path, number)? else {
            return Ok(None);
        };
        let left = number.end(self.size).bytes_since(from).unwrap_or(0);
        let mut bytes = vec![0; usize::try_from(left.min(most)).unwrap_or(0)];
        let mut filled = 0;
        let offset = u64::from(self.size.offset_of(from));
        while let Some(room) = bytes.get_mut(filled..).filter(|room| !room.is_empty()) {
            match file.read_at(room, offset + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(FileError::new("read", &name, error)),
            }
        }
        bytes.truncate(filled);
        Ok(Some(bytes))
    }

    /// Reads on a thread where waiting is allowed.
    pub async fn read_apart(
        &self,
        path: &Arc<HistoryFile>,
        from: Lsn,
        most: u64,
    ) -> Result<Option<Vec<u8>>, ShipError> {
        let (dir, path) = (self.clone(), path.clone());
        match tokio::task::spawn_blocking(move || dir.read(&path, from, most)).await {
            Ok(read) => Ok(read?),
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => Ok(None),
        }
    }
}

/// The control file, whole.
pub(crate) fn control(data_dir: &Path) -> Result<ControlFile, ShipError> {
    let path = data_dir.join(control::PATH);
    let mut tries = 0;
    loop {
        let bytes = std::fs::read(&path).to("read", &path)?;
        match ControlFile::parse(&bytes) {
            Ok(control) => return Ok(control),
            Err(control::ControlError::Crc { .. }) if tries < CONTROL_READS => tries += 1,
            Err(source) => return Err(ShipError::Control { path, source }),
        }
    }
}
