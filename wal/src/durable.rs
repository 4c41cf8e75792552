//! Files that are complete and on disk, or not there.
//!
//! The order of every write here:
//! 1. write the content under another name in the same directory;
//! 2. fsync the file; a failed fsync is final, the file is written anew from its source, never fsynced again;
//! 3. give it its name in one step, which fails if the name is taken;
//! 4. fsync the directory; only then is the file promised to anybody.
//!
//! Failpoints carry the names of the steps they follow.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

/// Files that are being written begin with this. No name of a store does.
pub const ASIDE_PREFIX: &str = ".aside-";

/// Files of a writer that died are swept when they are at least this old; a younger one may belong to a
/// writer that has not locked it yet.
const ORPHAN_AGE: Duration = Duration::from_secs(600);

/// Content is written in pieces of this size. The kernel takes memory for its cache in runs as long as the write. In a
/// virtual machine long runs that were free have often gone back to the host, and to get them again takes ten times as
/// long as to copy; short ones are at hand.
pub const WRITE_BYTES: usize = 256 << 10;

/// What became of a file that must not replace another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Created {
    New,
    /// The name was taken. What has it was left alone, and is durable.
    Exists,
}

/// An operation on a file that failed, and which.
#[derive(Debug, thiserror::Error)]
#[error("could not {action} {}", path.display())]
pub struct FileError {
    pub action: &'static str,
    pub path: PathBuf,
    #[source]
    pub source: io::Error,
}

impl FileError {
    pub fn new(action: &'static str, path: &Path, source: io::Error) -> FileError {
        FileError {
            action,
            path: path.to_owned(),
            source,
        }
    }

    /// No space, or over quota: an operator's matter, and nothing is wrong with the data.
    pub fn is_full(&self) -> bool {
        matches!(
            self.source.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
        )
    }
}

/// Attaches the operation and the path to an [`io::Error`].
pub(crate) trait Attach<T> {
    fn to(self, action: &'static str, path: &Path) -> Result<T, FileError>;
}

impl<T> Attach<T> for io::Result<T> {
    fn to(self, action: &'static str, path: &Path) -> Result<T, FileError> {
        self.map_err(|source| FileError::new(action, path, source))
    }
}

/// Writes `content` to the new file `path`, mode 0600, in a directory that exists. Never replaces a file.
pub fn create(path: &Path, content: &[u8]) -> Result<Created, FileError> {
    let aside = Aside::write(path, content)?;
    let created = aside.rename_new(path)?;
    if created == Created::Exists {
        // Whoever wrote it may not have come to its last step yet, and we are about to rely on it.
        File::open(path)
            .and_then(|file| file.sync_all())
            .to("fsync", path)?;
    }
    sync_parent(path)?;
    fail::fail_point!("durable::synced");
    Ok(created)
}

/// Writes `content` to `path`, mode 0600, in place of what is there.
pub fn replace(path: &Path, content: &[u8]) -> Result<(), FileError> {
    let mut aside = Aside::write(path, content)?;
    std::fs::rename(&aside.path, path).to("rename a new file to", path)?;
    aside.gone = true;
    sync_parent(path)
}

/// Removes `path` for good. A file that is not there is no error.
pub fn remove(path: &Path) -> Result<(), FileError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(FileError::new("remove", path, error)),
        Ok(()) => sync_parent(path),
    }
}

/// Makes `dir` and what is missing above it, mode 0700, each durable in its parent.
pub fn create_dirs(dir: &Path) -> Result<(), FileError> {
    if dir.is_dir() {
        return Ok(());
    }
    if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        create_dirs(parent)?;
    }
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        made => made.to("create directory", dir)?,
    }
    sync_parent(dir)
}

/// Makes the entry of `path` in its directory durable.
pub fn sync_parent(path: &Path) -> Result<(), FileError> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(parent)
        .and_then(|dir| dir.sync_all())
        .to("fsync directory", parent)
}

/// Removes from `dir` what writers left there that are dead. Returns how many files.
pub fn sweep(dir: &Path, now: SystemTime) -> Result<usize, FileError> {
    let mut swept = 0;
    for entry in std::fs::read_dir(dir).to("list", dir)? {
        let entry = entry.to("list", dir)?;
        if !entry
            .file_name()
            .as_encoded_bytes()
            .starts_with(ASIDE_PREFIX.as_bytes())
        {
            continue;
        }
        let path = entry.path();
        let old = entry
            .metadata()
            .and_then(|meta| meta.modified())
            .is_ok_and(|modified| now.duration_since(modified).is_ok_and(|age| age >= ORPHAN_AGE));
        if old && File::open(&path).is_ok_and(|file| file.try_lock().is_ok()) {
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                removed => removed.to("remove", &path)?,
            }
            swept += 1;
        }
    }
    Ok(swept)
}

/// A file under a name nobody looks at. It is removed unless it gets its own name.
struct Aside {
    path: PathBuf,
    /// Locked while its writer lives: this is how the sweep knows.
    _file: File,
    gone: bool,
}

impl Aside {
    fn write(target: &Path, content: &[u8]) -> Result<Aside, FileError> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let (path, file) = loop {
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            let name = format!("{ASIDE_PREFIX}{}-{number}", std::process::id());
            let path = target.with_file_name(name);
            let made = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&path);
            match made {
                // Somebody else's: a process has our number that died, or lives in another container.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                made => break (path.clone(), made.to("create", &path)?),
            }
        };
        let mut aside = Aside {
            path,
            _file: file,
            gone: false,
        };
        aside.fill(content).to("write", target)?;
        Ok(aside)
    }

    fn fill(&mut self, content: &[u8]) -> io::Result<()> {
        fail::fail_point!("durable::full", |_| Err(io::Error::from(
            io::ErrorKind::StorageFull
        )));
        self._file.lock()?;
        for part in content.chunks(WRITE_BYTES) {
            self._file.write_all(part)?;
        }
        fail::fail_point!("durable::written");
        self._file.sync_all()?;
        fail::fail_point!("durable::fsynced");
        Ok(())
    }

    fn rename_new(mut self, target: &Path) -> Result<Created, FileError> {
        const ACTION: &str = "give a new file the name";
        let renamed = match renameat_with(CWD, &self.path, CWD, target, RenameFlags::NOREPLACE) {
            Ok(()) => {
                self.gone = true;
                Ok(())
            }
            // Not every file system has this call; link has the same effect in two steps.
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => std::fs::hard_link(&self.path, target),
            Err(error) => Err(error.into()),
        };
        fail::fail_point!("durable::named");
        match renamed {
            Ok(()) => Ok(Created::New),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(Created::Exists),
            Err(error) => Err(FileError::new(ACTION, target, error)),
        }
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        if !self.gone {
            // Nothing depends on it; the sweep takes what stays.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_taken_name_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/name");
        create_dirs(path.parent().unwrap()).unwrap();
        assert_eq!(create(&path, b"one").unwrap(), Created::New);
        assert_eq!(create(&path, b"two").unwrap(), Created::Exists);
        assert_eq!(std::fs::read(&path).unwrap(), b"one");
        assert_eq!((mode(&path), mode(&dir.path().join("a/b"))), (0o600, 0o700));
        let names: Vec<_> = std::fs::read_dir(path.parent().unwrap()).unwrap().collect();
        assert_eq!(names.len(), 1, "nothing is left aside");
    }

    #[test]
    fn replacing_and_removing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("name");
        for content in [b"one", b"two"] {
            replace(&path, content).unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), content);
        }
        remove(&path).unwrap();
        remove(&path).unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn the_sweep_takes_old_files_of_dead_writers_only() {
        let dir = tempfile::tempdir().unwrap();
        let of = |name: &str| {
            let path = dir.path().join(name);
            (File::create(&path).unwrap(), path)
        };
        let (_, dead) = of(".aside-1-1");
        let (alive, living) = of(".aside-1-2");
        alive.lock().unwrap();
        let (_, other) = of("name");
        assert_eq!(sweep(dir.path(), SystemTime::now()).unwrap(), 0, "all are young");
        let later = SystemTime::now() + ORPHAN_AGE * 2;
        assert_eq!(sweep(dir.path(), later).unwrap(), 1);
        assert!(!dead.exists() && living.exists() && other.exists());
    }
}
