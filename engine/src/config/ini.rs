//! The old INI dialect: read lines, follow includes, replace references.
//!
//! A comment is a line that begins with `#` or `;`; the rest of a value's line belongs to the
//! value, quotes and all. Outside `[pgqd]` an indented line continues the value above it, as the
//! Python tools had it. Every value keeps the place it came from, for the error that may follow.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{ConfigError, absolute};

/// Includes inside includes; deeper is a file that includes itself.
const MAX_INCLUDES: usize = 10;
/// References inside references; deeper is a value that refers to itself.
const MAX_REFERENCES: usize = 10;
/// Nobody writes a configuration of this size; a log or a device named by mistake is refused.
const MAX_FILE_BYTES: u64 = 4 << 20;

/// Where a value was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    Line { path: Arc<PathBuf>, line: usize },
    Environment { variable: String },
    CommandLine,
    Default,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Line { path, line } => write!(f, "{}:{line}", path.display()),
            Place::Environment { variable } => write!(f, "environment variable {variable}"),
            Place::CommandLine => f.write_str("command line"),
            Place::Default => f.write_str("default"),
        }
    }
}

/// One `key = value`, as written.
#[derive(Debug, Clone)]
pub struct Entry {
    pub key: String,
    pub value: String,
    pub place: Place,
}

#[derive(Debug, Clone)]
struct Section {
    name: String,
    entries: Vec<Entry>,
}

/// A file with everything it includes.
#[derive(Debug, Clone)]
pub struct Ini {
    path: PathBuf,
    sections: Vec<Section>,
}

impl Ini {
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let mut ini = Self {
            path: absolute(path),
            sections: Vec::new(),
        };
        ini.read_file(&absolute(path), 0)?;
        Ok(ini)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn section_names(&self) -> impl Iterator<Item = &str> {
        self.sections.iter().map(|section| section.name.as_str())
    }

    /// The entries of a section in the order written; `None` if the file has no such section.
    pub fn section(&self, name: &str) -> Option<&[Entry]> {
        self.sections
            .iter()
            .find(|section| section.name == name)
            .map(|section| section.entries.as_slice())
    }

    fn read_file(&mut self, path: &Path, depth: usize) -> Result<(), ConfigError> {
        let read = |source| ConfigError::Read {
            path: path.to_owned(),
            source,
        };
        if std::fs::metadata(path).map_err(read)?.len() > MAX_FILE_BYTES {
            return Err(read(std::io::Error::other("it is larger than any configuration")));
        }
        let text = std::fs::read_to_string(path).map_err(read)?;
        self.read_text(&text, path, depth)
    }

    fn read_text(&mut self, text: &str, path: &Path, depth: usize) -> Result<(), ConfigError> {
        let shared = Arc::new(path.to_owned());
        // Whether the line above was a value, so that an indented line may continue it.
        let mut continuable = false;
        for (index, line) in text.lines().enumerate() {
            let place = Place::Line {
                path: shared.clone(),
                line: index + 1,
            };
            let syntax = |what: String| ConfigError::Syntax {
                place: place.clone(),
                what,
            };
            let trimmed = line.trim();
            if trimmed.is_empty() || trimmed.starts_with(['#', ';']) {
                // A comment may stand amid a value's lines; an empty line ends the value.
                continuable &= !trimmed.is_empty();
            } else if let Some(target) = include_target(trimmed) {
                if depth >= MAX_INCLUDES {
                    return Err(syntax(format!("%include goes deeper than {MAX_INCLUDES} files")));
                }
                let target = expand_home(target);
                let beside = path.parent().unwrap_or(Path::new(".")).join(target);
                self.read_file(&beside, depth + 1)?;
                continuable = false;
            } else if trimmed.starts_with('[') {
                let name = trimmed
                    .strip_prefix('[')
                    .and_then(|rest| rest.strip_suffix(']'))
                    .map(str::trim)
                    .filter(|name| !name.is_empty())
                    .ok_or_else(|| syntax(format!("section line {trimmed:?} is not [name]")))?;
                self.open_section(name);
                continuable = false;
            } else if continuable && line.starts_with([' ', '\t']) && self.continues(trimmed) {
                continue;
            } else {
                // The line itself may hold a password, so the message does not repeat it.
                let (key, value) = trimmed
                    .split_once(['=', ':'])
                    .map(|(key, value)| (key.trim(), value.trim()))
                    .filter(|(key, _)| is_key(key))
                    .ok_or_else(|| syntax("expected a line of the form key = value".into()))?;
                let entry = Entry {
                    key: key.to_ascii_lowercase(),
                    value: value.to_owned(),
                    place: place.clone(),
                };
                let section = self
                    .sections
                    .last_mut()
                    .ok_or_else(|| syntax(format!("key {key} stands before any section")))?;
                section.entries.push(entry);
                continuable = true;
            }
        }
        Ok(())
    }

    /// A section may be opened again, by an included file for one; it goes on where it ended.
    fn open_section(&mut self, name: &str) {
        let section = match self.sections.iter().position(|section| section.name == name) {
            Some(at) => self.sections.remove(at),
            None => Section {
                name: name.to_owned(),
                entries: Vec::new(),
            },
        };
        // The open section is the last one.
        self.sections.push(section);
    }

    fn continues(&mut self, line: &str) -> bool {
        let Some(section) = self.sections.last_mut().filter(|section| section.name != "pgqd") else {
            return false;
        };
        let Some(entry) = section.entries.last_mut() else {
            return false;
        };
        entry.value.push('\n');
        entry.value.push_str(line);
        true
    }
}

fn include_target(line: &str) -> Option<&str> {
    let rest = line.strip_prefix("%include")?;
    rest.starts_with([' ', '\t']).then(|| rest.trim())
}

fn is_key(key: &str) -> bool {
    !key.is_empty()
        && key
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"_.*-".contains(&b))
}

/// `~` and `~/…` stand for the home directory. `~user` stays as it is: it needs the user database.
pub fn expand_home(path: &str) -> PathBuf {
    let home = || std::env::home_dir().filter(|home| !home.as_os_str().is_empty());
    match path.strip_prefix('~') {
        Some("") => home().unwrap_or_else(|| path.into()),
        Some(rest) if rest.starts_with('/') => match home() {
            Some(home) => home.join(rest.trim_start_matches('/')),
            None => path.into(),
        },
        _ => path.into(),
    }
}

/// Which references a file uses; `config_format` chooses, and without it both work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum References {
    /// `%(key)s`
    Percent,
    /// `${key}` and `${section:key}`
    Dollar,
    Both,
}

impl References {
    fn percent(self) -> bool {
        matches!(self, References::Percent | References::Both)
    }

    fn dollar(self) -> bool {
        matches!(self, References::Dollar | References::Both)
    }
}

/// Finds the raw value a reference names. The section is `None` for the entry's own one.
pub trait Lookup {
    fn raw(&self, section: Option<&str>, key: &str) -> Option<String>;
}

/// Replace the references in `entry`'s value.
pub fn interpolate(
    entry: &Entry,
    references: References,
    lookup: &dyn Lookup,
) -> Result<String, ConfigError> {
    let reader = Interpolation {
        entry,
        references,
        lookup,
    };
    reader.expand(&entry.value, 0)
}

struct Interpolation<'a> {
    entry: &'a Entry,
    references: References,
    lookup: &'a dyn Lookup,
}

impl Interpolation<'_> {
    fn expand(&self, value: &str, depth: usize) -> Result<String, ConfigError> {
        let mut out = String::with_capacity(value.len());
        let mut rest = value;
        while let Some(at) = rest.find(['%', '$']) {
            let (before, tail) = rest.split_at(at);
            out.push_str(before);
            rest = self.one(tail, depth, &mut out)?;
        }
        out.push_str(rest);
        Ok(out)
    }

    /// Handle the sign `tail` begins with and return what follows it.
    fn one<'t>(&self, tail: &'t str, depth: usize, out: &mut String) -> Result<&'t str, ConfigError> {
        if self.references.percent() {
            if let Some(rest) = tail.strip_prefix("%%") {
                out.push('%');
                return Ok(rest);
            }
            // `%(cnt)d` is not ours but a format for later, as compare_fmt has it.
            if let Some((name, rest)) = tail.strip_prefix("%(").and_then(|rest| rest.split_once(")s"))
                && is_key(name)
            {
                out.push_str(&self.value_of(None, name, depth)?);
                return Ok(rest);
            }
        }
        if self.references.dollar() {
            if let Some(rest) = tail.strip_prefix("$$") {
                out.push('$');
                return Ok(rest);
            }
            if let Some((name, rest)) = tail.strip_prefix("${").and_then(|rest| rest.split_once('}')) {
                let (section, key) = match name.split_once(':') {
                    Some((section, key)) => (Some(section.trim()), key.trim()),
                    None => (None, name.trim()),
                };
                out.push_str(&self.value_of(section, key, depth)?);
                return Ok(rest);
            }
        }
        let mut chars = tail.chars();
        out.extend(chars.next());
        Ok(chars.as_str())
    }

    fn value_of(&self, section: Option<&str>, key: &str, depth: usize) -> Result<String, ConfigError> {
        if depth >= MAX_REFERENCES {
            return Err(ConfigError::Syntax {
                place: self.entry.place.clone(),
                what: format!("key {} refers to itself", self.entry.key),
            });
        }
        match self.lookup.raw(section, &key.to_ascii_lowercase()) {
            Some(raw) => self.expand(&raw, depth + 1),
            None => Err(ConfigError::Interpolation {
                place: self.entry.place.clone(),
                key: self.entry.key.clone(),
                reference: key.to_owned(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn parse(text: &str) -> Result<Ini, ConfigError> {
        let mut ini = Ini {
            path: "/etc/job.ini".into(),
            sections: Vec::new(),
        };
        ini.read_text(text, Path::new("/etc/job.ini"), 0)?;
        Ok(ini)
    }

    fn pairs(ini: &Ini, section: &str) -> Vec<(String, String)> {
        let entries = ini.section(section).unwrap_or_default();
        entries
            .iter()
            .map(|entry| (entry.key.clone(), entry.value.clone()))
            .collect()
    }

    #[test]
    fn comments_stand_at_line_start_only() {
        let ini = parse("# one\n; two\n[londiste]\n  # three\nDB = dbname=x # four\npw = \"a;b\"\\n\n")
            .expect("legal");
        let expected = [("db", "dbname=x # four"), ("pw", "\"a;b\"\\n")].map(|(k, v)| (k.into(), v.into()));
        assert_eq!(pairs(&ini, "londiste"), expected);
    }

    #[test]
    fn indented_lines_continue_a_value_except_for_pgqd() {
        let ini = parse("[londiste]\nt = a,\n  b,\n  # not this\n  c\n\n  d = 1\n").expect("legal");
        let expected = [("t", "a,\nb,\nc"), ("d", "1")].map(|(k, v)| (k.into(), v.into()));
        assert_eq!(pairs(&ini, "londiste"), expected);
        let ini = parse("[pgqd]\nticker_period = 1\n  maint_period = 2\n").expect("legal");
        assert_eq!(pairs(&ini, "pgqd").len(), 2);
    }

    #[test]
    fn errors_name_file_and_line_and_not_the_content() {
        for (text, line) in [
            ("[a]\nx = 1\nsecret\n", 3),
            ("x = 1\n", 1),
            ("\n[a\n", 2),
            ("[]\n", 1),
            ("[a]\n= 1\n", 2),
        ] {
            let message = parse(text).expect_err(text).to_string();
            assert!(
                message.starts_with(&format!("/etc/job.ini:{line}: ")),
                "{message}"
            );
            assert!(!message.contains("secret"), "{message}");
        }
    }

    #[test]
    fn includes_nest_but_not_for_ever() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = |name: &str| directory.path().join(name);
        std::fs::write(path("a.ini"), "[londiste]\nx = 1\n%include sub.ini\ny = 2\n").expect("write");
        std::fs::write(path("sub.ini"), "z = 3\n[DEFAULT]\nhost = h\n[londiste]\n").expect("write");
        let ini = Ini::read(&path("a.ini")).expect("legal");
        let keys: Vec<_> = pairs(&ini, "londiste").into_iter().map(|(key, _)| key).collect();
        assert_eq!(keys, ["x", "z", "y"]);
        assert_eq!(pairs(&ini, "DEFAULT").len(), 1);

        std::fs::write(path("loop.ini"), "%include loop.ini\n").expect("write");
        let message = Ini::read(&path("loop.ini"))
            .expect_err("it includes itself")
            .to_string();
        assert!(message.contains("deeper than 10"), "{message}");
        assert!(matches!(
            Ini::read(&path("none.ini")),
            Err(ConfigError::Read { .. })
        ));
    }

    struct Names(HashMap<&'static str, &'static str>);

    impl Lookup for Names {
        fn raw(&self, section: Option<&str>, key: &str) -> Option<String> {
            let name = section.map_or_else(|| key.to_owned(), |section| format!("{section}:{key}"));
            self.0.get(name.as_str()).map(|value| (*value).to_owned())
        }
    }

    fn replaced(value: &str, references: References) -> Result<String, ConfigError> {
        let entry = Entry {
            key: "db".into(),
            value: value.into(),
            place: Place::CommandLine,
        };
        let names = [
            ("host", "h1"),
            ("dsn", "host=%(host)s"),
            ("loop", "%(loop)s"),
            ("other:host", "h2"),
        ];
        interpolate(&entry, references, &Names(HashMap::from(names)))
    }

    #[test]
    fn references_are_replaced_in_both_forms() {
        for (value, expected) in [
            ("%(dsn)s port=1", "host=h1 port=1"),
            ("${HOST}/${other:host}", "h1/h2"),
            ("100%% of $$1", "100% of $1"),
            ("50% and $x", "50% and $x"),
            ("%(cnt)d rows", "%(cnt)d rows"),
            ("ü%(host)sü", "üh1ü"),
            ("%", "%"),
        ] {
            assert_eq!(replaced(value, References::Both).expect(value), expected);
        }
        assert_eq!(
            replaced("${host}$$", References::Percent).expect("literal"),
            "${host}$$"
        );
        assert_eq!(
            replaced("%(host)s%%", References::Dollar).expect("literal"),
            "%(host)s%%"
        );
    }

    #[test]
    fn bad_references_are_errors() {
        let message = replaced("%(nohost)s", References::Both)
            .expect_err("unknown")
            .to_string();
        assert_eq!(
            message,
            "command line: key db asks for \"nohost\", which is not set"
        );
        let message = replaced("%(loop)s", References::Both)
            .expect_err("a loop")
            .to_string();
        assert!(message.contains("refers to itself"), "{message}");
    }
}
