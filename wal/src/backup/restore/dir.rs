//! The directories a cluster is restored into: may they be used, and what of them goes.

use std::collections::HashSet;
use std::fs::{DirBuilder, Permissions};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::process::{Pid, test_kill_process};

use super::marker::{self, Unfinished};
use super::{MARKER, Settings};
use crate::backup::BackupError;
use crate::backup::manifest::{Backup, Summary};
use crate::control::{self, ControlFile};
use crate::durable::{self, ASIDE_PREFIX, Attach, FileError};

/// The data directory, and where each tablespace's link leads.
#[derive(Debug)]
pub(super) struct TargetDirs {
    data: PathBuf,
    /// By OID.
    tablespaces: Vec<(u32, PathBuf)>,
    system_id: u64,
}

impl TargetDirs {
    pub fn new(summary: &Summary, settings: &Settings) -> Result<TargetDirs, BackupError> {
        let absolute = |path: &Path| std::path::absolute(path).to("find", path);
        let mut tablespaces = Vec::new();
        for (from, _) in &settings.tablespaces {
            if !summary
                .tablespaces
                .iter()
                .any(|known| Path::new(&known.location) == from)
            {
                return Err(refused(from, "is no tablespace of this backup"));
            }
        }
        let data = absolute(&settings.data_dir)?;
        // What is gone on with goes on where it was, though the mapping is not given again.
        let unfinished = Unfinished::read(&data).filter(|_| settings.delta);
        for tablespace in &summary.tablespaces {
            let from = PathBuf::from(&tablespace.location);
            let mut mapped = settings.tablespaces.iter();
            let mapped = mapped.find(|(old, _)| *old == from).map(|(_, to)| to);
            let mut before = unfinished.iter().flat_map(|unfinished| &unfinished.tablespaces);
            let before = before.find(|(oid, _)| *oid == tablespace.oid);
            let to = mapped.or(before.map(|(_, place)| place)).unwrap_or(&from);
            tablespaces.push((tablespace.oid, absolute(to)?));
        }
        Ok(TargetDirs {
            data,
            tablespaces,
            system_id: summary.system_identifier,
        })
    }

    /// A path of the manifest. What is in a tablespace is reached where it is, not through its link.
    pub fn path(&self, path: &str) -> PathBuf {
        let inside = path.strip_prefix("pg_tblspc/").and_then(|rest| {
            let (oid, rest) = rest.split_once('/')?;
            let oid: u32 = oid.parse().ok()?;
            let (_, location) = self.tablespaces.iter().find(|(known, _)| *known == oid)?;
            Some(location.join(rest))
        });
        inside.unwrap_or_else(|| self.data.join(path))
    }

    pub fn roots(&self) -> impl Iterator<Item = &PathBuf> {
        std::iter::once(&self.data).chain(self.tablespaces.iter().map(|(_, location)| location))
    }

    /// Step 1.
    pub fn check(&self, delta: bool) -> Result<(), BackupError> {
        let roots: Vec<&PathBuf> = self.roots().collect();
        for (number, root) in roots.iter().enumerate() {
            let mut others = roots.iter().enumerate().filter(|(other, _)| *other != number);
            if let Some((_, other)) = others.find(|(_, other)| root.starts_with(other)) {
                return Err(refused(
                    root,
                    &format!("lies in {}, which is restored too", other.display()),
                ));
            }
            let used = is_used(root)?;
            if number == 0 {
                let wal = root.join("pg_wal");
                if wal.is_symlink() {
                    refuse_served(&wal)?;
                }
                if used {
                    self.check_cluster(root, delta)?;
                }
            } else if used && !delta {
                return Err(refused(root, "is a tablespace's place and not empty"));
            } else if used && !self.is_own(number - 1) {
                return Err(BackupError::TablespaceTaken {
                    path: root.to_path_buf(),
                    data: self.data.clone(),
                });
            } else if used {
                refuse_served(root)?;
            }
        }
        Ok(())
    }

    /// A tablespace's place in use may be a living server's: it is only taken if the data directory's own link leads
    /// there, or if an earlier restore into this data directory began there.
    fn is_own(&self, number: usize) -> bool {
        let Some((oid, place)) = self.tablespaces.get(number) else {
            return false;
        };
        let real = |path: &Path| std::fs::canonicalize(path).ok();
        let link = self.data.join(format!("pg_tblspc/{oid}"));
        if link.is_symlink() && real(&link).is_some_and(|link| Some(link) == real(place)) {
            return true;
        }
        let begun = Unfinished::read(&self.data).is_some_and(|begun| {
            begun.system_id == self.system_id && begun.tablespaces.contains(&(*oid, place.clone()))
        });
        begun && marker::is_marked(place, &self.data)
    }

    /// A directory in use is only taken if it is this cluster's, and its server is down.
    fn check_cluster(&self, root: &Path, delta: bool) -> Result<(), BackupError> {
        if let Some(pid) = running(root) {
            return Err(refused(root, &format!("has a server that runs, process {pid}")));
        }
        let own = match std::fs::read(root.join(control::PATH)) {
            Ok(bytes) => match ControlFile::parse(&bytes) {
                Ok(control) => Some(control.system_id),
                Err(error) => return Err(refused(root, &format!("has an unreadable pg_control: {error}"))),
            },
            // A restore that did not come to its end.
            Err(_) => Unfinished::read(root).map(|unfinished| unfinished.system_id),
        };
        match own {
            None => Err(refused(root, "is not empty and no data directory")),
            Some(own) if own != self.system_id => Err(refused(
                root,
                &format!("belongs to the cluster {own}, the backup to {}", self.system_id),
            )),
            Some(_) if !delta => Err(refused(root, "is not empty")),
            Some(_) => Ok(()),
        }
    }

    /// Step 2.
    pub fn begin(&self) -> Result<(), FileError> {
        for root in self.roots() {
            durable::create_dirs(root)?;
            std::fs::set_permissions(root, Permissions::from_mode(0o700))
                .to("set the permissions of", root)?;
        }
        let unfinished = Unfinished {
            system_id: self.system_id,
            tablespaces: self.tablespaces.clone(),
        };
        unfinished.write(&self.data)?;
        for (_, place) in &self.tablespaces {
            marker::mark_place(place, &self.data)?;
        }
        fail::fail_point!("restore::marked");
        let global = self.data.join("global");
        match global.is_dir() {
            true => durable::remove(&self.data.join(control::PATH)),
            false => Ok(()),
        }
    }

    /// Removes what the backup does not have. WAL goes always: it is of another past.
    pub fn remove_others(&self, backup: &Backup) -> Result<u64, FileError> {
        let files = backup.contents.files.iter().map(|file| self.path(&file.path));
        let mut keep: HashSet<PathBuf> = files.collect();
        keep.insert(self.data.join(MARKER));
        let dirs: HashSet<PathBuf> = backup.contents.dirs.iter().map(|dir| self.path(dir)).collect();
        let mut removed = 0;
        for (number, root) in self.roots().enumerate() {
            let own = match number {
                0 => None,
                // Beside a version's directory other clusters may have theirs.
                _ => dirs.iter().find(|dir| dir.parent() == Some(root)).cloned(),
            };
            match (number, own) {
                (0, _) => removed += clear(root, &keep, &dirs)?,
                (_, Some(own)) if own.is_dir() => removed += clear(&own, &keep, &dirs)?,
                _ => {}
            }
        }
        Ok(removed)
    }

    pub fn make(&self, dirs: &[String]) -> Result<(), FileError> {
        // The server does not start without.
        const ALWAYS: [&str; 3] = ["pg_tblspc", "pg_wal", "pg_wal/archive_status"];
        let links: Vec<String> = self
            .tablespaces
            .iter()
            .map(|(oid, _)| format!("pg_tblspc/{oid}"))
            .collect();
        let wanted = dirs
            .iter()
            .map(String::as_str)
            .filter(|dir| !links.iter().any(|link| link == dir));
        for dir in wanted.chain(ALWAYS) {
            let path = self.path(dir);
            match DirBuilder::new().recursive(true).mode(0o700).create(&path) {
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                made => made.to("create directory", &path)?,
            }
            std::fs::set_permissions(&path, Permissions::from_mode(0o700))
                .to("set the permissions of", &path)?;
        }
        for ((_, location), link) in self.tablespaces.iter().zip(&links) {
            let path = self.data.join(link);
            match std::fs::symlink_metadata(&path) {
                Ok(meta) if meta.is_dir() => std::fs::remove_dir_all(&path).to("remove", &path)?,
                Ok(_) => std::fs::remove_file(&path).to("remove", &path)?,
                Err(_) => {}
            }
            std::os::unix::fs::symlink(location, &path).to("link", &path)?;
        }
        Ok(())
    }

    /// Before `pg_control` comes back: from now on the links, which are durable, say whose the places are. A marker left
    /// behind would say it of a place that may be another server's by then.
    pub fn unmark_places(&self) -> Result<(), FileError> {
        let mut places = self.tablespaces.iter();
        places.try_for_each(|(_, place)| durable::remove(&place.join(MARKER)))
    }

    /// The end.
    pub fn unmark(&self) -> Result<(), FileError> {
        durable::remove(&self.data.join(MARKER))
    }

    /// Makes the entries of all directories durable.
    pub fn sync(&self, dirs: &[String]) -> Result<(), FileError> {
        let own = ["pg_tblspc", "pg_wal", "global"].map(|dir| self.data.join(dir));
        let named = dirs.iter().map(|dir| self.path(dir));
        for dir in named.chain(own).chain(self.roots().cloned()) {
            let opened = std::fs::File::open(&dir).and_then(|dir| dir.sync_all());
            opened.to("fsync directory", &dir)?;
        }
        Ok(())
    }
}

fn refused(path: &Path, what: &str) -> BackupError {
    BackupError::TargetDir {
        path: path.to_owned(),
        what: what.to_owned(),
    }
}

/// Something is in it. A file system's `lost+found` is not, nor a marker whose writer died.
fn is_used(dir: &Path) -> Result<bool, FileError> {
    match std::fs::read_dir(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        entries => {
            let mut entries = entries.to("list", dir)?;
            Ok(entries.any(|entry| {
                entry.is_ok_and(|entry| {
                    let name = entry.file_name();
                    name != "lost+found" && !name.as_encoded_bytes().starts_with(ASIDE_PREFIX.as_bytes())
                })
            }))
        }
    }
}

/// The process of the server that runs on a data directory.
fn running(data: &Path) -> Option<i32> {
    let text = std::fs::read_to_string(data.join("postmaster.pid")).ok()?;
    let number: i32 = text.lines().next()?.trim().parse().ok()?;
    let pid = Pid::from_raw(number)?;
    match test_kill_process(pid) {
        // It is there and another user's.
        Ok(()) | Err(rustix::io::Errno::PERM) => Some(number),
        Err(_) => None,
    }
}

/// A copy of a data directory has the links of the one it was copied from: what they lead to is not taken from a server
/// that runs.
fn refuse_served(place: &Path) -> Result<(), BackupError> {
    let Ok(real) = std::fs::canonicalize(place) else {
        return Ok(());
    };
    for (data, pid) in servers() {
        let links = std::fs::read_dir(data.join("pg_tblspc")).into_iter().flatten();
        let links = links.filter_map(|entry| Some(entry.ok()?.path()));
        let mut places = links.chain([data.join("pg_wal")]);
        if places.any(|used| std::fs::canonicalize(used).is_ok_and(|used| used == real)) {
            let what = format!("is used by the server in {}, process {pid}", data.display());
            return Err(refused(&real, &what));
        }
    }
    Ok(())
}

/// Data directories of servers that run on this host, as far as this user may see: a postmaster works in its own.
fn servers() -> Vec<(PathBuf, i32)> {
    let processes = std::fs::read_dir("/proc").into_iter().flatten();
    let pids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid: i32| {
        let dir = std::fs::read_link(format!("/proc/{pid}/cwd")).ok()?;
        (running(&dir) == Some(pid)).then_some((dir, pid))
    })
    .collect()
}

/// Removes files that are not in `keep`, and directories that are not in `dirs`. Links are not followed.
fn clear(dir: &Path, keep: &HashSet<PathBuf>, dirs: &HashSet<PathBuf>) -> Result<u64, FileError> {
    let mut removed = 0;
    for entry in std::fs::read_dir(dir).to("list", dir)? {
        let entry = entry.to("list", dir)?;
        let path = entry.path();
        let kind = entry.file_type().to("look at", &path)?;
        let name = entry.file_name();
        if name == "lost+found" || keep.contains(&path) && !kind.is_symlink() {
            continue;
        }
        if kind.is_dir() {
            removed += clear(&path, keep, dirs)?;
            if !dirs.contains(&path) && name != "pg_wal" {
                std::fs::remove_dir(&path).to("remove", &path)?;
            }
        } else if kind.is_symlink() && name == "pg_wal" {
            // WAL on a disk of its own stays there.
            removed += clear(&std::fs::canonicalize(&path).to("find", &path)?, keep, dirs)?;
        } else {
            std::fs::remove_file(&path).to("remove", &path)?;
            removed += 1;
        }
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::recovery::{Action, Recovery, Role, StopAt};

    fn settings(data: &Path) -> Settings {
        Settings {
            data_dir: data.to_owned(),
            tablespaces: vec![("/srv/ts".into(), data.with_file_name("ts"))],
            delta: false,
            jobs: 1,
            recovery: Recovery {
                role: Role::Primary {
                    stop_at: StopAt::End,
                    action: Action::Promote,
                },
                restore_command: "x".into(),
                timeline: "latest".into(),
            },
        }
    }

    #[test]
    fn what_is_somebody_elses_is_refused() {
        let tmp = tempfile::tempdir().unwrap();
        let data = tmp.path().join("data");
        let backup = crate::backup::manifest::tests::sample();
        let of = |data: &Path| TargetDirs::new(&backup.summary, &settings(data)).unwrap();
        let dirs = of(&data);
        dirs.check(false).unwrap();
        assert_eq!(
            dirs.path("pg_tblspc/16385/PG_15/x"),
            tmp.path().join("ts/PG_15/x")
        );
        assert_eq!(dirs.path("base/1/2"), data.join("base/1/2"));

        std::fs::create_dir(&data).unwrap();
        std::fs::write(data.join("letter"), "dear").unwrap();
        for delta in [false, true] {
            let error = dirs.check(delta).unwrap_err().to_string();
            assert!(error.contains("not empty and no data directory"), "{error}");
        }
        // A restore that was broken off is gone on with.
        dirs.begin().unwrap();
        dirs.check(true).unwrap();
        assert!(dirs.check(false).is_err());
        std::fs::write(data.join(MARKER), "7\n").unwrap();
        let error = dirs.check(true).unwrap_err().to_string();
        assert!(error.contains("belongs to the cluster 7"), "{error}");
        std::fs::write(data.join("postmaster.pid"), format!("{}\n", std::process::id())).unwrap();
        let error = dirs.check(true).unwrap_err().to_string();
        assert!(error.contains("a server that runs"), "{error}");

        let mut inside = settings(&data);
        inside.tablespaces = vec![("/srv/ts".into(), data.join("ts"))];
        let error = TargetDirs::new(&backup.summary, &inside).unwrap().check(true);
        assert!(error.is_err());
        inside.tablespaces = vec![("/srv/other".into(), "/x".into())];
        assert!(TargetDirs::new(&backup.summary, &inside).is_err());
    }

    /// Prevents: a restore beside a living server that clears the server's tablespace.
    #[test]
    fn a_tablespaces_place_is_taken_only_if_it_is_ours() {
        let tmp = tempfile::tempdir().unwrap();
        let (data, place) = (tmp.path().join("data"), tmp.path().join("ts"));
        let backup = crate::backup::manifest::tests::sample();
        let of = || TargetDirs::new(&backup.summary, &settings(&data)).unwrap();
        let gone_on = |mapped: &[(&str, &Path)]| {
            let tablespaces = mapped
                .iter()
                .map(|(old, new)| (PathBuf::from(old), new.to_path_buf()));
            let settings = Settings {
                delta: true,
                tablespaces: tablespaces.collect(),
                ..settings(&data)
            };
            TargetDirs::new(&backup.summary, &settings).unwrap()
        };
        std::fs::create_dir_all(place.join("PG_15_1/5")).unwrap();
        let taken = |dirs: &TargetDirs| matches!(dirs.check(true), Err(BackupError::TablespaceTaken { .. }));
        assert!(taken(&of()), "no data directory");

        // A restore that was broken off: it goes on, and without its mapping to the same place.
        std::fs::remove_dir_all(&place).unwrap();
        of().begin().unwrap();
        std::fs::create_dir_all(place.join("PG_15_1/5")).unwrap();
        of().check(true).unwrap();
        let dirs = gone_on(&[]);
        assert_eq!(dirs.tablespaces, [(16_385, place.clone())]);
        dirs.check(true).unwrap();
        let other = tmp.path().join("other");
        std::fs::create_dir_all(other.join("PG_15_1/5")).unwrap();
        assert!(taken(&gone_on(&[("/srv/ts", &other)])));
        // The marker of another data directory's restore.
        marker::mark_place(&place, &tmp.path().join("elsewhere")).unwrap();
        assert!(taken(&of()));
        // One that was forgotten, of a restore whose data directory is no more.
        marker::mark_place(&place, &data).unwrap();
        of().check(true).unwrap();
        std::fs::remove_dir_all(&data).unwrap();
        assert!(taken(&of()));

        // A data directory whose link leads there.
        of().begin().unwrap();
        of().make(&backup.contents.dirs).unwrap();
        of().unmark_places().unwrap();
        of().check(true).unwrap();
        std::fs::remove_file(data.join("pg_tblspc/16385")).unwrap();
        assert!(taken(&of()));
    }

    #[test]
    fn what_the_backup_does_not_have_goes() {
        let tmp = tempfile::tempdir().unwrap();
        let data = tmp.path().join("data");
        let backup = crate::backup::manifest::tests::sample();
        let dirs = TargetDirs::new(&backup.summary, &settings(&data)).unwrap();
        dirs.begin().unwrap();
        dirs.make(&backup.contents.dirs).unwrap();
        for (path, stays) in [("PG_VERSION", true), ("base/1", false), ("pg_wal/0001", false)] {
            std::fs::write(data.join(path), "x").unwrap();
            assert!(data.join(path).exists() || stays);
        }
        std::fs::create_dir_all(data.join("old/dir")).unwrap();
        let precious = tmp.path().join("precious");
        std::fs::write(&precious, "x").unwrap();
        std::os::unix::fs::symlink(&precious, data.join("link")).unwrap();
        assert_eq!(dirs.remove_others(&backup).unwrap(), 4, "two files and two links");
        // What is in the backup goes into a file of its own.
        std::fs::remove_file(data.join("PG_VERSION")).unwrap();
        std::os::unix::fs::symlink(&precious, data.join("PG_VERSION")).unwrap();
        assert_eq!(dirs.remove_others(&backup).unwrap(), 1);
        assert!(!data.join("PG_VERSION").is_symlink());
        std::fs::write(data.join("PG_VERSION"), "x").unwrap();
        assert!(data.join("PG_VERSION").exists() && data.join("base").is_dir() && precious.exists());
        assert!(!data.join("old").exists() && !data.join("pg_wal/0001").exists());
    }
}
