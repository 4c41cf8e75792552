//! A cluster's files on this host: which ones a backup has (`backup/basebackup.c` leaves out the same).

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::BackupError;
use super::manifest::Tablespace;
use super::page::RelationPath;
use crate::durable::{Attach, FileError};

/// Directories whose contents a server makes anew.
const EMPTY: [&str; 8] = [
    "pg_stat_tmp",
    "pg_replslot",
    "pg_dynshmem",
    "pg_notify",
    "pg_serial",
    "pg_snapshots",
    "pg_subtrans",
    "pg_wal",
];
const LEFT_OUT: [&str; 12] = [
    "postmaster.pid",
    "postmaster.opts",
    "backup_label",
    "backup_label.old",
    "tablespace_map",
    "tablespace_map.old",
    "backup_manifest",
    "postgresql.auto.conf.tmp",
    "current_logfiles.tmp",
    "recovery.signal",
    "standby.signal",
    crate::control::PATH,
];
const LEFT_OUT_PREFIXES: [&str; 3] = ["pgsql_tmp", "pg_internal.init", ".aside-"];

/// A file to copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// As in a manifest.
    pub path: String,
    pub at: PathBuf,
    pub bytes: u64,
}

#[derive(Debug, Default)]
pub struct Tree {
    pub dirs: Vec<String>,
    /// Without `pg_control`, which is copied last.
    pub files: Vec<Found>,
    pub tablespaces: Vec<Tablespace>,
}

impl Tree {
    /// Walks the data directory, and in each tablespace the directory of this version.
    pub fn read(data: &Path, version_dir: &str) -> Result<Tree, BackupError> {
        let mut tree = Tree::default();
        tree.walk(data, "")?;
        let links = data.join("pg_tblspc");
        for entry in fs::read_dir(&links).to("list", &links)? {
            let entry = entry.to("list", &links)?;
            let link = entry.path();
            let name = entry.file_name();
            let Some(oid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else {
                continue;
            };
            if !entry.file_type().to("look at", &link)?.is_symlink() {
                continue;
            }
            let location = fs::read_link(&link).to("read the link", &link)?;
            let text = location.to_str().ok_or_else(|| not_utf8(&location))?;
            tree.tablespaces.push(Tablespace {
                oid,
                location: text.to_owned(),
            });
            let inside = format!("pg_tblspc/{oid}/{version_dir}");
            tree.dirs.push(inside.clone());
            tree.walk(&location.join(version_dir), &inside)?;
        }
        tree.leave_out_unlogged();
        tree.files.sort_by(|a, b| a.path.cmp(&b.path));
        tree.dirs.sort();
        Ok(tree)
    }

    fn walk(&mut self, dir: &Path, inside: &str) -> Result<(), BackupError> {
        let entries = match fs::read_dir(dir) {
            // A database was dropped meanwhile; replay drops it too.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !inside.is_empty() => return Ok(()),
            entries => entries.to("list", dir)?,
        };
        for entry in entries {
            let entry = entry.to("list", dir)?;
            let at = entry.path();
            let name = entry.file_name();
            let name = name.to_str().ok_or_else(|| not_utf8(&at))?;
            let path = match inside {
                "" => name.to_owned(),
                inside => format!("{inside}/{name}"),
            };
            if LEFT_OUT.contains(&path.as_str())
                || LEFT_OUT_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
            {
                continue;
            }
            // What a link leads to, if it is a directory: a log or WAL directory elsewhere.
            let meta = match fs::metadata(&at) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                meta => meta.to("look at", &at)?,
            };
            if meta.is_dir() {
                if inside == "pg_tblspc" && at.is_symlink() {
                    continue;
                }
                self.dirs.push(path.clone());
                if !EMPTY.contains(&path.as_str()) {
                    self.walk(&at, &path)?;
                }
            } else if meta.is_file() && !is_temporary(&path, name) {
                self.files.push(Found {
                    path,
                    at,
                    bytes: meta.len(),
                });
            }
        }
        Ok(())
    }

    /// An unlogged relation has an init fork, from which a server makes the others.
    fn leave_out_unlogged(&mut self) {
        let key = |path: &RelationPath| (path.tablespace, path.database, path.number);
        let relations = self
            .files
            .iter()
            .filter_map(|file| RelationPath::parse(&file.path));
        let unlogged: HashSet<_> = relations
            .filter(|path| path.fork == 3)
            .map(|path| key(&path))
            .collect();
        self.files.retain(|file| {
            RelationPath::parse(&file.path)
                .is_none_or(|path| path.fork == 3 || !unlogged.contains(&key(&path)))
        });
    }
}

/// A temporary relation's file: `t3_16385`, in a database's directory.
fn is_temporary(path: &str, name: &str) -> bool {
    let in_database = path.starts_with("base/") || path.starts_with("pg_tblspc/");
    let numbers = name.strip_prefix('t').and_then(|rest| rest.split_once('_'));
    in_database
        && numbers.is_some_and(|(backend, relation)| {
            let is_number = |text: &str| text.starts_with(|c: char| c.is_ascii_digit());
            is_number(backend) && is_number(relation)
        })
}

fn not_utf8(path: &Path) -> FileError {
    let error = std::io::Error::new(std::io::ErrorKind::InvalidData, "its name is no UTF-8");
    FileError::new("back up", path, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_makes_anew_is_left_out() {
        let tmp = tempfile::tempdir().unwrap();
        let data = tmp.path().join("data");
        let space = tmp.path().join("space");
        for dir in [
            "base/5",
            "global",
            "pg_wal",
            "pg_tblspc",
            "pg_stat_tmp",
            "pg_xact",
        ] {
            fs::create_dir_all(data.join(dir)).unwrap();
        }
        fs::create_dir_all(space.join("PG_15_1/5")).unwrap();
        fs::create_dir_all(space.join("PG_14_1/5")).unwrap();
        std::os::unix::fs::symlink(&space, data.join("pg_tblspc/77")).unwrap();
        for (file, _) in [
            ("PG_VERSION", true),
            ("postmaster.pid", false),
            ("global/pg_control", false),
            ("global/pg_internal.init.3", false),
            ("base/5/10", true),
            ("base/5/10_vm", true),
            ("base/5/11", false),
            ("base/5/11_init", true),
            ("base/5/11_fsm", false),
            ("base/5/t3_12", false),
            ("pg_wal/000000010000000000000001", false),
            ("pg_stat_tmp/x", false),
            ("pg_xact/0000", true),
            ("base/5/pgsql_tmp1.0", false),
        ] {
            fs::write(data.join(file), "x").unwrap();
        }
        fs::write(space.join("PG_15_1/5/20"), "x").unwrap();
        fs::write(space.join("PG_14_1/5/20"), "x").unwrap();
        let tree = Tree::read(&data, "PG_15_1").unwrap();
        let paths: Vec<&str> = tree.files.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(
            paths,
            [
                "PG_VERSION",
                "base/5/10",
                "base/5/10_vm",
                "base/5/11_init",
                "pg_tblspc/77/PG_15_1/5/20",
                "pg_xact/0000",
            ]
        );
        assert!(
            tree.dirs.iter().any(|dir| dir == "pg_wal") && tree.dirs.iter().any(|dir| dir == "pg_stat_tmp")
        );
        assert_eq!(tree.tablespaces.len(), 1);
    }
}
