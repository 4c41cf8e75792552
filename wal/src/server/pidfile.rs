//! The server of a data directory, by its `postmaster.pid`.

use std::io;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, test_kill_process};

use crate::durable::{Attach, FileError};

const NAME: &str = "postmaster.pid";

/// A living postmaster, as it describes itself (`miscadmin.h`, `LOCK_FILE_LINE_*`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Postmaster {
    pub pid: i32,
    pub port: u16,
    /// Where its first Unix socket is.
    pub socket_dir: Option<PathBuf>,
    /// The first address it listens at.
    pub address: Option<String>,
    /// `ready`, `standby`, `starting`, `stopping`.
    pub status: String,
}

impl Postmaster {
    /// `None`: there is no file, or no such process.
    pub fn find(data_dir: &Path) -> Result<Option<Postmaster>, FileError> {
        let path = data_dir.join(NAME);
        let text = match std::fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read.to("read", &path)?,
        };
        let Some(found) = Postmaster::parse(&text) else {
            return Ok(None);
        };
        let Some(pid) = Pid::from_raw(found.pid) else {
            return Ok(None);
        };
        match test_kill_process(pid) {
            Err(rustix::io::Errno::SRCH) => Ok(None),
            // Alive, or somebody else's: then it is alive, too.
            _ => Ok(Some(found)),
        }
    }

    fn parse(text: &str) -> Option<Postmaster> {
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        let line = |number: usize| lines.get(number).copied().filter(|line| !line.is_empty());
        Some(Postmaster {
            // A postmaster that runs by itself has a negative one (`bootstrap`, single user).
            pid: line(0)?.parse::<i32>().ok().filter(|pid| *pid > 0)?,
            port: line(3).and_then(|port| port.parse().ok()).unwrap_or(5432),
            socket_dir: line(4).map(PathBuf::from),
            address: line(5).map(str::to_owned),
            status: line(7).unwrap_or_default().to_owned(),
        })
    }

    /// Up and replaying, with `hot_standby = off`: nobody may connect.
    pub fn refuses_connections(&self) -> bool {
        self.status == "standby"
    }

    /// A connect string to it from this host.
    pub fn connect_text(&self) -> String {
        let host = match (&self.socket_dir, self.address.as_deref()) {
            (Some(dir), _) => dir.display().to_string(),
            (None, None | Some("*" | "0.0.0.0" | "::")) => "localhost".to_owned(),
            (None, Some(address)) => address.to_owned(),
        };
        let host = host.replace('\\', "\\\\").replace('\'', "\\'");
        format!("host='{host}' port={} dbname=postgres", self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_file_says_how_to_connect() {
        let text = "4711\n/srv/data\n1764100000\n5433\n/run/it's\n127.0.0.1\n  1234  5678\nready   \n";
        let found = Postmaster::parse(text).unwrap();
        assert_eq!(
            (found.pid, found.port, found.status.as_str()),
            (4711, 5433, "ready")
        );
        assert_eq!(
            found.connect_text(),
            "host='/run/it\\'s' port=5433 dbname=postgres"
        );
        assert!(!found.refuses_connections());
        let text = "4711\n/srv/data\n1764100000\n5433\n\n*\n1 2\nstandby \n";
        let found = Postmaster::parse(text).unwrap();
        assert_eq!(found.connect_text(), "host='localhost' port=5433 dbname=postgres");
        assert!(found.refuses_connections());
        assert_eq!(Postmaster::parse("-12\n"), None);
        assert_eq!(Postmaster::parse(""), None);
    }

    #[test]
    fn a_dead_process_is_no_server() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Postmaster::find(dir.path()).unwrap(), None);
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id();
        child.wait().unwrap();
        std::fs::write(dir.path().join(NAME), format!("{pid}\n")).unwrap();
        assert_eq!(Postmaster::find(dir.path()).unwrap(), None);
        std::fs::write(dir.path().join(NAME), format!("{}\n", std::process::id())).unwrap();
        assert!(Postmaster::find(dir.path()).unwrap().is_some());
    }
}
