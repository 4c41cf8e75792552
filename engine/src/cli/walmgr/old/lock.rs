//! `xlock` and `xrelease`: whoever holds the lock keeps backups and purges out.

use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::Context as _;
use rustix::process::{Pid, test_kill_process};

use crate::cli::failure::Failure;
use crate::cli::{Context, Outcome};
use crate::config::settings::{StoreAt, WalmgrSettings};

const NAME: &str = "BACKUPLOCK";

/// In the first directory among the stores; the others have no place for files that are not theirs.
fn path(settings: &WalmgrSettings) -> Option<PathBuf> {
    settings.stores.iter().find_map(|at| match at {
        StoreAt::Dir(dir) => Some(dir.join(NAME)),
        StoreAt::Peer { .. } | StoreAt::S3(_) => None,
    })
}

fn required_path(settings: &WalmgrSettings) -> anyhow::Result<PathBuf> {
    Ok(path(settings).ok_or_else(|| Failure::usage("no store is a directory, where the lock would be"))?)
}

/// Nobody holds the lock, and no daemon works on the stores.
pub fn no_daemon(settings: &WalmgrSettings) -> anyhow::Result<()> {
    check(settings)?;
    if std::os::unix::net::UnixStream::connect(&settings.socket).is_ok() {
        return Err(
            Failure::new(format!("the daemon answers at {}", settings.socket.display()))
                .hint("Stop it first.")
                .into(),
        );
    }
    Ok(())
}

/// The process that holds it, if that lives. A lock of a dead one is none.
fn holder(path: &std::path::Path) -> anyhow::Result<Option<i32>> {
    let text = match std::fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        text => text.with_context(|| format!("read {}", path.display()))?,
    };
    let Some(pid) = text.trim().parse::<i32>().ok().and_then(Pid::from_raw) else {
        return Err(Failure::new(format!("{} names no process", path.display()))
            .hint("xrelease removes it.")
            .into());
    };
    match test_kill_process(pid) {
        Err(rustix::io::Errno::SRCH) => Ok(None),
        _ => Ok(Some(pid.as_raw_nonzero().get())),
    }
}

/// Prints the holder and leaves with 1 if there is one.
pub fn take(settings: &WalmgrSettings, pid: i32, context: &Context) -> anyhow::Result<Outcome> {
    if pid <= 0 {
        return Err(Failure::usage(format!("{pid} is no process")).into());
    }
    let path = required_path(settings)?;
    // The second time, the lock of a dead process is gone; somebody else may have been faster.
    for _ in 0..2 {
        if let Some(holder) = holder(&path)? {
            context.output.line(holder.to_string())?;
            return Ok(Outcome::Code(1));
        }
        // Written aside and linked, so that nobody reads half a number.
        let aside = path.with_extension(std::process::id().to_string());
        std::fs::File::create(&aside)
            .and_then(|mut file| writeln!(file, "{pid}"))
            .with_context(|| format!("write {}", aside.display()))?;
        let linked = std::fs::hard_link(&aside, &path);
        std::fs::remove_file(&aside).with_context(|| format!("remove {}", aside.display()))?;
        match linked {
            Ok(()) => return Ok(Outcome::Done),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => remove_stale(&path)?,
            Err(error) => return Err(anyhow::Error::new(error).context(format!("write {}", path.display()))),
        }
    }
    match holder(&path)? {
        Some(holder) => {
            context.output.line(holder.to_string())?;
            Ok(Outcome::Code(1))
        }
        None => Err(Failure::new(format!("{} comes and goes", path.display())).into()),
    }
}

fn remove_stale(path: &std::path::Path) -> anyhow::Result<()> {
    match holder(path)? {
        Some(_) => Ok(()),
        None => remove(path),
    }
}

fn remove(path: &std::path::Path) -> anyhow::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(anyhow::Error::new(error).context(format!("remove {}", path.display())))
        }
        _ => Ok(()),
    }
}

pub fn release(settings: &WalmgrSettings) -> anyhow::Result<Outcome> {
    remove(&required_path(settings)?)?;
    Ok(Outcome::Done)
}

/// For what changes backups.
pub fn check(settings: &WalmgrSettings) -> anyhow::Result<()> {
    let Some(path) = path(settings) else {
        return Ok(());
    };
    match holder(&path)? {
        None => Ok(()),
        Some(pid) => Err(Failure::new(format!("process {pid} holds {}", path.display()))
            .hint("It was taken by xlock: wait for that process, or xrelease.")
            .into()),
    }
}
