//! The lock of a spool directory: one writer, in the directory that stands at its path.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use super::SpoolError;

/// Held as long as it lives.
#[derive(Debug)]
pub(super) struct Lock {
    path: PathBuf,
    file: File,
}

impl Lock {
    /// Takes the directory's lock, which lasts as long as the file is open.
    pub fn take(dir: &Path) -> Result<Lock, SpoolError> {
        let path = dir.join("lock");
        let mut options = File::options();
        options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600);
        let mut file = options.open(&path).map_err(SpoolError::io("open", &path))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                let mut holder = String::new();
                let known = file.read_to_string(&mut holder).is_ok() && !holder.trim().is_empty();
                let holder = if known {
                    holder.trim().to_owned()
                } else {
                    "unknown".to_owned()
                };
                return Err(SpoolError::Locked {
                    dir: dir.to_owned(),
                    holder,
                });
            }
            Err(e) => return Err(SpoolError::io("lock", &path)(e.into())),
        }
        let told = file
            .set_len(0)
            .and_then(|()| write!(file, "{}", std::process::id()))
            .map_err(SpoolError::io("write", &path));
        match told {
            // Who holds the lock is for messages only.
            Err(error) if error.is_full_disk() => {}
            told => told?,
        }
        Ok(Lock { path, file })
    }

    /// Fails if another file, or none, is at the lock's path now.
    pub fn check_place(&self) -> Result<(), SpoolError> {
        let ours = self
            .file
            .metadata()
            .map_err(SpoolError::io("look at", &self.path))?;
        match fs::metadata(&self.path) {
            Ok(there) if (there.dev(), there.ino()) == (ours.dev(), ours.ino()) => Ok(()),
            _ => Err(SpoolError::Replaced {
                dir: self.path.parent().unwrap_or(&self.path).to_owned(),
            }),
        }
    }
}
