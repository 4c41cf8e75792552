//! Entries of `~/.pgpass` (PostgreSQL manual, "The Password File").

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use skytide_sql::conn::{ConnectString, Place};
use skytide_wal::durable;

use crate::cli::failure::Failure;

fn path() -> anyhow::Result<PathBuf> {
    let home = std::env::home_dir().filter(|home| !home.as_os_str().is_empty());
    Ok(home
        .ok_or_else(|| Failure::new("this user has no home directory, where .pgpass would be"))?
        .join(".pgpass"))
}

/// What a line begins with, up to the password: one for each host.
fn places(server: &ConnectString) -> Vec<String> {
    let hosts = server.hosts().iter().map(|host| {
        let name = match &host.place {
            // What libpq calls its own socket directory.
            Place::Directory(dir)
                if ["/tmp", "/run/postgresql", "/var/run/postgresql"]
                    .iter()
                    .any(|d| dir == Path::new(d)) =>
            {
                "localhost".to_owned()
            }
            Place::Directory(dir) => dir.display().to_string(),
            Place::Name { name, .. } => name.clone(),
        };
        // Streaming looks for the database "replication", a session for its own.
        format!("{}:{}:*:{}:", escape(&name), host.port, escape(server.user()))
    });
    hosts.collect()
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace(':', "\\:")
}

/// The text with these entries in front, or without them.
fn edited(text: &str, places: &[String], password: Option<&str>) -> String {
    let mut lines: Vec<String> = Vec::new();
    if let Some(password) = password {
        lines.extend(places.iter().map(|place| format!("{place}{}", escape(password))));
    }
    let others = text
        .lines()
        .filter(|line| !places.iter().any(|place| line.starts_with(place.as_str())));
    lines.extend(others.map(str::to_owned));
    lines.iter().map(|line| format!("{line}\n")).collect()
}

/// Puts the first line of `file` there, as this server's password. Returns the password file.
pub fn add(server: &ConnectString, file: &Path) -> anyhow::Result<PathBuf> {
    let text = std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
    let password = text.lines().next().unwrap_or_default();
    if password.is_empty() {
        return Err(Failure::usage(format!("{} has no password in its first line", file.display())).into());
    }
    change(server, Some(password))
}

pub fn remove(server: &ConnectString) -> anyhow::Result<PathBuf> {
    change(server, None)
}

fn change(server: &ConnectString, password: Option<&str>) -> anyhow::Result<PathBuf> {
    let path = path()?;
    let old = match std::fs::read_to_string(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        text => text.with_context(|| format!("read {}", path.display()))?,
    };
    let new = edited(&old, &places(server), password);
    if new != old {
        // Mode 0600, as libpq wants it.
        durable::replace(&path, new.as_bytes())?;
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_put_in_front_and_taken_out_again() {
        let server: ConnectString = "host=db1,db2 port=5433 user=re:pl".parse().unwrap();
        let places = places(&server);
        assert_eq!(places, ["db1:5433:*:re\\:pl:", "db2:5433:*:re\\:pl:"]);
        let old = "# mine\ndb1:5433:*:re\\:pl:old\nother:5432:*:a:b\n";
        let with = edited(old, &places, Some("pass:word"));
        assert_eq!(
            with,
            "db1:5433:*:re\\:pl:pass\\:word\ndb2:5433:*:re\\:pl:pass\\:word\n# mine\nother:5432:*:a:b\n"
        );
        assert_eq!(edited(&with, &places, None), "# mine\nother:5432:*:a:b\n");
    }
}
