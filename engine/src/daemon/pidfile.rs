//! The pidfile: one running process a file, stale ones taken over, removed at exit.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PidfileError {
    #[error("pidfile {path} belongs to the running process {pid}; stop that one first", path = path.display())]
    Running { path: PathBuf, pid: i32 },
    #[error("pidfile {path} is being written by another process that is starting", path = path.display())]
    Starting { path: PathBuf },
    #[error("pidfile {path} holds no process number; remove the file if nothing is running", path = path.display())]
    Garbled { path: PathBuf },
    #[error("{action} pidfile {path}", path = path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
}

/// Our pidfile, held by a lock for as long as we live.
#[derive(Debug)]
pub struct Pidfile {
    path: PathBuf,
    _locked: File,
}

impl Pidfile {
    /// Steps, in this order: open without truncating, lock, look who is in it, write ourselves.
    /// The lock makes two starts at once safe; the number inside serves people and old tools.
    pub fn take(path: &Path) -> Result<Self, PidfileError> {
        let io = |action| {
            move |source| PidfileError::Io {
                action,
                path: path.to_owned(),
                source,
            }
        };
        loop {
            let mut file = OpenOptions::new()
                .create(true)
                .truncate(false)
                .read(true)
                .write(true)
                .open(path)
                .map_err(io("open"))?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    return Err(match owner_in(&mut file, path)? {
                        Some(pid) => PidfileError::Running {
                            path: path.to_owned(),
                            pid: pid.as_raw_pid(),
                        },
                        None => PidfileError::Starting {
                            path: path.to_owned(),
                        },
                    });
                }
                Err(TryLockError::Error(source)) => return Err(io("lock")(source)),
            }
            // Its owner may have removed the file between our open and our lock.
            if !same_file(&file, path) {
                continue;
            }
            if let Some(pid) = owner_in(&mut file, path)? {
                // Not locked, yet alive: written by an old tool, which knows no locks.
                if pid.as_raw_pid() != own_pid() && alive(pid) {
                    return Err(PidfileError::Running {
                        path: path.to_owned(),
                        pid: pid.as_raw_pid(),
                    });
                }
            }
            file.set_len(0).map_err(io("empty"))?;
            io::Seek::rewind(&mut file).map_err(io("write"))?;
            writeln!(file, "{}", std::process::id()).map_err(io("write"))?;
            return Ok(Self {
                path: path.to_owned(),
                _locked: file,
            });
        }
    }
}

impl Drop for Pidfile {
    fn drop(&mut self) {
        // A file that is gone already is what we want; anything else no one can act on at exit.
        let _ = fs::remove_file(&self.path);
    }
}

/// The running process a pidfile names, if there is one.
pub fn running(path: &Path) -> Result<Option<Pid>, PidfileError> {
    match File::open(path) {
        Ok(mut file) => Ok(owner_in(&mut file, path)?.filter(|pid| alive(*pid))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(PidfileError::Io {
            action: "open",
            path: path.to_owned(),
            source,
        }),
    }
}

/// Send a signal to the process a pidfile names. `false` if none is running.
pub fn send(path: &Path, signal: Signal) -> Result<bool, PidfileError> {
    let Some(pid) = running(path)? else {
        return Ok(false);
    };
    kill_process(pid, signal).map_err(|errno| PidfileError::Io {
        action: "signal the process of",
        path: path.to_owned(),
        source: errno.into(),
    })?;
    Ok(true)
}

fn owner_in(file: &mut File, path: &Path) -> Result<Option<Pid>, PidfileError> {
    let mut text = String::new();
    file.take(64)
        .read_to_string(&mut text)
        .map_err(|source| PidfileError::Io {
            action: "read",
            path: path.to_owned(),
            source,
        })?;
    let Some(first) = text.lines().next() else {
        return Ok(None);
    };
    first
        .trim()
        .parse()
        .ok()
        .filter(|number| *number > 0)
        .and_then(Pid::from_raw)
        .map(Some)
        .ok_or_else(|| PidfileError::Garbled {
            path: path.to_owned(),
        })
}

/// A process we may not signal is alive too.
fn alive(pid: Pid) -> bool {
    !matches!(test_kill_process(pid), Err(rustix::io::Errno::SRCH))
}

fn same_file(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (file.metadata(), fs::metadata(path)) {
        (Ok(ours), Ok(theirs)) => (ours.dev(), ours.ino()) == (theirs.dev(), theirs.ino()),
        _ => false,
    }
}

fn own_pid() -> i32 {
    rustix::process::getpid().as_raw_pid()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("worker.pid");
        (directory, path)
    }

    #[test]
    fn it_holds_our_number_and_goes_with_us() {
        let (_directory, path) = place();
        let pidfile = Pidfile::take(&path).expect("free");
        assert_eq!(
            fs::read_to_string(&path).expect("read"),
            format!("{}\n", std::process::id())
        );
        assert!(running(&path).expect("read").is_some());
        drop(pidfile);
        assert!(!path.exists());
        assert!(running(&path).expect("read").is_none());
    }

    #[test]
    fn a_second_process_is_refused() {
        let (_directory, path) = place();
        let _first = Pidfile::take(&path).expect("free");
        let refusal = Pidfile::take(&path).expect_err("held");
        assert!(matches!(refusal, PidfileError::Running { .. }), "{refusal}");
    }

    #[test]
    fn a_file_of_a_live_old_tool_is_respected() {
        let (_directory, path) = place();
        fs::write(&path, "1\n").expect("write");
        let refusal = Pidfile::take(&path).expect_err("process 1 always runs");
        assert!(
            matches!(refusal, PidfileError::Running { pid: 1, .. }),
            "{refusal}"
        );
        assert!(path.exists());
    }

    #[test]
    fn a_stale_file_is_taken_over() {
        let (_directory, path) = place();
        let mut child = std::process::Command::new("true").spawn().expect("spawn");
        child.wait().expect("wait");
        fs::write(&path, format!("{}\n", child.id())).expect("write");
        Pidfile::take(&path).expect("its owner is gone");
    }

    #[test]
    fn a_garbled_file_is_not_guessed_at() {
        let (_directory, path) = place();
        fs::write(&path, "hello\n").expect("write");
        assert!(matches!(Pidfile::take(&path), Err(PidfileError::Garbled { .. })));
        fs::write(&path, "-1\n").expect("write");
        assert!(matches!(Pidfile::take(&path), Err(PidfileError::Garbled { .. })));
    }
}
