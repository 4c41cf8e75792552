//! One segment file: name, creation, opening.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use super::format::{BadHeader, HEADER, SegmentHeader};
use super::index::SegmentIndex;
use super::map::{Map, MapWriter};
use super::{SpoolError, VERSION};

/// A segment that readers may look into.
pub(super) struct Segment {
    pub header: SegmentHeader,
    pub path: PathBuf,
    pub file: File,
    pub map: Arc<Map>,
    index: Mutex<SegmentIndex>,
    /// Nothing comes behind what is published. Of a segment that is read along with its writer.
    sealed: AtomicBool,
}

impl Segment {
    pub fn new(
        header: SegmentHeader,
        path: PathBuf,
        file: File,
        map: Arc<Map>,
        index: SegmentIndex,
    ) -> Segment {
        Segment {
            header,
            path,
            file,
            map,
            index: Mutex::new(index),
            sealed: AtomicBool::new(false),
        }
    }

    pub fn index(&self) -> MutexGuard<'_, SegmentIndex> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn is_sealed(&self) -> bool {
        self.sealed.load(Ordering::Acquire)
    }

    pub fn seal(&self) {
        self.sealed.store(true, Ordering::Release);
    }

    /// Makes the file's contents durable.
    pub fn sync(&self) -> Result<(), SpoolError> {
        fail::fail_point!("spool::sync", |_| Err(SpoolError::io("sync", &self.path)(
            io::ErrorKind::Other.into()
        )));
        self.file.sync_data().map_err(SpoolError::io("sync", &self.path))
    }
}

pub(super) fn segment_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:016x}.seg"))
}

pub(super) fn index_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:016x}.idx"))
}

/// Segment numbers in `dir`, ascending.
pub(super) fn list(dir: &Path) -> Result<Vec<u64>, SpoolError> {
    let mut numbers = Vec::new();
    for entry in dir.read_dir().map_err(SpoolError::io("read directory", dir))? {
        let name = entry.map_err(SpoolError::io("read directory", dir))?.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix(".seg"));
        let number = number.filter(|hex| hex.len() == 16);
        numbers.extend(number.and_then(|hex| u64::from_str_radix(hex, 16).ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// A file only we may read, new unless `replace`.
pub(super) fn create_file(path: &Path, replace: bool) -> Result<File, SpoolError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    if replace {
        options.create(true).truncate(true);
    } else {
        options.create_new(true);
    }
    options.open(path).map_err(SpoolError::io("create", path))
}

pub(super) fn sync_dir(dir: &Path) -> Result<(), SpoolError> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(SpoolError::io("sync directory", dir))
}

/// Gives every byte of the file a disk block, so that no write through the map can find the disk full.
pub(super) fn allocate(file: &File, bytes: u64, path: &Path) -> Result<(), SpoolError> {
    fail::fail_point!("spool::allocate", |_| Err(SpoolError::NoSpace {
        dir: path.parent().unwrap_or(path).to_owned(),
        bytes,
    }));
    let outcome = loop {
        match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, bytes) {
            Err(Errno::INTR) => {}
            Err(Errno::OPNOTSUPP) => break fill(file, bytes),
            other => break other.map_err(io::Error::from),
        }
    };
    outcome.map_err(|source| match Errno::from_io_error(&source) {
        Some(Errno::NOSPC | Errno::DQUOT) => SpoolError::NoSpace {
            dir: path.parent().unwrap_or(path).to_owned(),
            bytes,
        },
        _ => SpoolError::io("allocate", path)(source),
    })
}

/// Where the last byte that is not zero ends; `from` if none comes after it. Reads backwards from `len`, aside
/// from any map, so that nothing of an empty tail stays in this process's memory.
pub(super) fn used_len(file: &File, from: usize, len: usize) -> io::Result<usize> {
    use std::os::unix::fs::FileExt;
    const STEP: usize = 256 << 10;
    let mut block = vec![0; STEP];
    let zeros = [0; STEP];
    let mut end = len;
    while end > from {
        let start = end.saturating_sub(STEP).max(from);
        let block = &mut block[..end - start];
        file.read_exact_at(block, start as u64)?;
        if *block != zeros[..block.len()] {
            let last = block.iter().rposition(|b| *b != 0);
            return Ok(last.map_or(start, |last| start + last + 1));
        }
        end = start;
    }
    Ok(from)
}

/// Allocates by writing where the file system cannot fallocate. Keeps what is there.
fn fill(file: &File, bytes: u64) -> io::Result<()> {
    use std::os::unix::fs::FileExt;
    let mut at = 0;
    let mut block = vec![0; 64 << 10];
    while at < bytes {
        let want = block
            .len()
            .min(usize::try_from(bytes - at).unwrap_or(block.len()));
        block.fill(0);
        let mut have = 0;
        while have < want {
            match file.read_at(&mut block[have..want], at + have as u64)? {
                0 => break,
                n => have += n,
            }
        }
        file.write_all_at(&block[..want], at)?;
        at += want as u64;
    }
    Ok(())
}

/// Creates, allocates and maps a segment, and writes its header. Leaves nothing behind if it fails.
pub(super) fn create(dir: &Path, header: SegmentHeader) -> Result<(Arc<Segment>, MapWriter), SpoolError> {
    let path = segment_path(dir, header.number);
    let file = create_file(&path, false)?;
    let made = allocate(&file, header.segment_bytes, &path).and_then(|()| {
        Map::writable(&file, header.segment_bytes as usize).map_err(SpoolError::io("map", &path))
    });
    let mut writer = made.inspect_err(|_| {
        // The first error is the one that matters.
        let _ = std::fs::remove_file(&path);
    })?;
    writer.write(0, &header.encode());
    writer.publish(HEADER);
    let index = SegmentIndex::starting(&header);
    let segment = Segment::new(header, path, file, Arc::clone(writer.map()), index);
    Ok((Arc::new(segment), writer))
}

pub(super) fn open_file(path: &Path, write: bool) -> Result<File, SpoolError> {
    let mut options = OpenOptions::new();
    options.read(true).write(write);
    options.open(path).map_err(SpoolError::io("open", path))
}

/// Removes a file that may be gone already.
pub(super) fn remove(path: &Path) -> Result<(), SpoolError> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(SpoolError::io("remove", path)),
    }
}

/// Reads and checks a segment file's header.
pub(super) fn read_header(file: &File, path: &Path) -> Result<SegmentHeader, SpoolError> {
    use std::os::unix::fs::FileExt;
    let mut bytes = [0; HEADER];
    match file.read_exact_at(&mut bytes, 0) {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {}
        other => other.map_err(SpoolError::io("read", path))?,
    }
    SegmentHeader::decode(&bytes).map_err(|bad| match bad {
        BadHeader::Fault(fault) => fault.in_file(path),
        BadHeader::Version(found) => SpoolError::Version {
            file: path.to_owned(),
            expected: VERSION,
            found,
        },
    })
}

/// Microseconds since 2000-01-01 UTC, as PostgreSQL counts.
pub(super) fn now() -> i64 {
    const UNIX_TO_2000: i64 = 946_684_800_000_000;
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(unix.as_micros()).unwrap_or(i64::MAX) - UNIX_TO_2000
}
