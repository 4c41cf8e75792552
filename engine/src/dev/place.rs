//! What is where in the directory.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::cli::failure::Failure;
use crate::daemon::pidfile::{self, Pidfile};

/// Both the queue's and the databases' name.
pub const SHOP: &str = "shop";
pub const PROVIDER: &str = "provider";
pub const SUBSCRIBER: &str = "subscriber";

/// Says that the directory is ours to fill and to empty.
const MARKER: &str = "skytide-dev.txt";
const MARKER_TEXT: &str = "Servers made by `skytide dev`. Remove them with `skytide dev down --remove`.\n";

/// Beside the servers, everything that we put into the directory.
const OWN_FILES: [&str; 8] = [
    "ticker.ini",
    "root.ini",
    "leaf.ini",
    "ticker.log",
    "worker.log",
    "ticker.pid",
    "worker.pid",
    MARKER,
];

/// `~/.skytide/dev`. The servers of root belong to another user, who must be able to get there: root's
/// are not in its home.
pub fn default_dir() -> PathBuf {
    match std::env::var_os("HOME") {
        Some(home) if !rustix::process::geteuid().is_root() => Path::new(&home).join(".skytide/dev"),
        _ => PathBuf::from("/var/lib/skytide/dev"),
    }
}

/// A process that runs beside the servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Job {
    Ticker,
    Worker,
}

impl Job {
    pub const ALL: [Job; 2] = [Job::Ticker, Job::Worker];

    pub fn name(self) -> &'static str {
        match self {
            Job::Ticker => "ticker",
            Job::Worker => "worker",
        }
    }
}

/// The directory.
#[derive(Clone, Debug)]
pub struct Place {
    dir: PathBuf,
}

impl Place {
    /// A directory that is empty, not there yet, or ours.
    pub fn new(dir: &Path) -> anyhow::Result<Place> {
        let dir = std::path::absolute(dir)?;
        let strange = match fs::read_dir(&dir) {
            Ok(mut entries) => entries.next().is_some() && !dir.join(MARKER).is_file(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => false,
            Err(error) => return Err(error).with_context(|| format!("read {}", dir.display())),
        };
        if strange {
            return Err(Failure::usage(format!(
                "{} is not empty, and was not made by skytide dev",
                dir.display()
            ))
            .hint("name another directory with --dir")
            .into());
        }
        Ok(Place { dir })
    }

    /// Makes the directory, and keeps other commands out of it while the result lives.
    pub fn claim(&self) -> anyhow::Result<Pidfile> {
        fs::create_dir_all(&self.dir).with_context(|| format!("create {}", self.dir.display()))?;
        self.mark()?;
        Ok(Pidfile::take(&self.dir.join("dev.pid"))?)
    }

    /// Says in the directory whose it is.
    pub(super) fn mark(&self) -> anyhow::Result<()> {
        let path = self.dir.join(MARKER);
        fs::write(&path, MARKER_TEXT).with_context(|| format!("write {}", path.display()))
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    pub fn pidfile(&self, job: Job) -> PathBuf {
        self.dir.join(format!("{}.pid", job.name()))
    }

    pub fn log(&self, job: Job) -> PathBuf {
        self.dir.join(format!("{}.log", job.name()))
    }

    pub fn spool(&self) -> PathBuf {
        self.dir.join("spool")
    }

    pub fn pid(&self, job: Job) -> anyhow::Result<Option<i32>> {
        Ok(pidfile::running(&self.pidfile(job))?.map(rustix::process::Pid::as_raw_pid))
    }

    /// The last lines of a process's log.
    pub fn log_tail(&self, job: Job) -> String {
        const LINES: usize = 15;
        let text = fs::read_to_string(self.log(job)).unwrap_or_default();
        let skip = text.lines().count().saturating_sub(LINES);
        text.lines().skip(skip).collect::<Vec<_>>().join("\n")
    }

    /// Writes the configuration files a user would write.
    pub fn write_configuration(&self, provider: &str, subscriber: &str) -> anyhow::Result<()> {
        self.mark()?;
        let base = provider
            .rsplit_once(" dbname=")
            .map_or(provider, |(base, _)| base);
        let process = |job: Job| {
            format!(
                "pidfile = {}\nlogfile = {}\n",
                self.pidfile(job).display(),
                self.log(job).display()
            )
        };
        let files = [
            (
                "ticker.ini",
                format!(
                    "[pgqd]\nbase_connstr = {base}\ndatabase_list = {SHOP}\n{}",
                    process(Job::Ticker)
                ),
            ),
            (
                "root.ini",
                format!("[londiste]\njob_name = root_worker\ndb = {provider}\nqueue_name = {SHOP}\n"),
            ),
            (
                "leaf.ini",
                format!(
                    "[londiste]\njob_name = leaf_worker\ndb = {subscriber}\nqueue_name = {SHOP}\nspool_dir = {}\n{}",
                    self.spool().display(),
                    process(Job::Worker)
                ),
            ),
        ];
        for (name, text) in files {
            let path = self.file(name);
            fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        }
        Ok(())
    }

    /// Removes what we put here beside the servers. Nothing may run any more.
    pub fn remove_files(&self) -> anyhow::Result<()> {
        let gone = |removed: std::io::Result<()>, path: &Path| match removed {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("remove {}", path.display()))
            }
            _ => Ok(()),
        };
        let spool = self.spool();
        gone(fs::remove_dir_all(&spool), &spool)?;
        for name in OWN_FILES {
            let path = self.file(name);
            gone(fs::remove_file(&path), &path)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_strangers_directory_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("letter"), "dear").unwrap();
        let refusal = Place::new(dir.path()).unwrap_err().to_string();
        assert!(refusal.contains("was not made by skytide dev"), "{refusal}");
    }

    #[test]
    fn what_was_claimed_is_ours_until_it_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::new(&dir.path().join("dev")).unwrap();
        let claim = place.claim().unwrap();
        let again = Place::new(place.dir()).unwrap();
        assert!(again.claim().is_err(), "one at a time");
        drop(claim);
        place
            .write_configuration("host=a dbname=shop", "host=b dbname=shop")
            .unwrap();
        let ticker = fs::read_to_string(place.file("ticker.ini")).unwrap();
        assert!(ticker.contains("base_connstr = host=a\n"), "{ticker}");
        place.remove_files().unwrap();
        assert_eq!(fs::read_dir(place.dir()).unwrap().count(), 0);
    }
}
