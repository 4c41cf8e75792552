//! `~/.pgpass` (PostgreSQL manual, "The Password File").

use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// The password for this place, if the file has a line for it. As in libpq a file that others may
/// read is not used, and a missing one is nothing special.
pub(super) fn password(path: &Path, host: &str, port: u16, dbname: &str, user: &str) -> Option<String> {
    let text = match std::fs::metadata(path) {
        Ok(meta) if !meta.is_file() => return None,
        Ok(meta) if meta.permissions().mode() & 0o077 != 0 => {
            tracing::warn!(path = %path.display(), "password file ignored: others can read it; chmod 600 it");
            return None;
        }
        Ok(_) => std::fs::read_to_string(path),
        Err(e) => Err(e),
    };
    match text {
        Ok(text) => find(&text, [host, &port.to_string(), dbname, user]),
        Err(e) if e.kind() == ErrorKind::NotFound => None,
        Err(e) => {
            tracing::warn!(path = %path.display(), error = %e, "password file ignored");
            None
        }
    }
}

fn find(text: &str, wanted: [&str; 4]) -> Option<String> {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .find_map(|line| {
            let fields = fields(line);
            let (password, place) = fields.split_last()?;
            let matches = place.len() == wanted.len()
                && place
                    .iter()
                    .zip(wanted)
                    .all(|(field, wanted)| field == "*" || field == wanted);
            matches.then(|| password.clone())
        })
}

/// Five fields split at colons; a backslash takes the next character as it is.
fn fields(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            ':' if fields.len() < 5 => fields.push(String::new()),
            c => {
                let c = if c == '\\' { chars.next() } else { Some(c) };
                if let Some(field) = fields.last_mut() {
                    field.extend(c);
                }
            }
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_matching_line_wins() {
        let text = "# comment\nother:5432:*:*:no\nh\\:x:5432:db:me:se\\:cret\n*:*:*:me:second\n";
        assert_eq!(
            find(text, ["h:x", "5432", "db", "me"]).as_deref(),
            Some("se:cret")
        );
        assert_eq!(find(text, ["h", "5432", "db", "me"]).as_deref(), Some("second"));
        assert_eq!(find(text, ["h", "5432", "db", "you"]), None);
        assert_eq!(find("short:line\n", ["short", "line", "", ""]), None);
    }

    #[test]
    fn a_file_others_can_read_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pgpass");
        std::fs::write(&path, "*:*:*:*:x\n").unwrap();
        for (mode, expected) in [(0o600, Some("x")), (0o640, None)] {
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
            assert_eq!(password(&path, "h", 1, "d", "u").as_deref(), expected);
        }
    }
}
