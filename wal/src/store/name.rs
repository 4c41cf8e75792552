//! Names of what a store keeps: checked once, so that no store ever sees a path that leaves it.

use std::fmt;
use std::str::FromStr;

const MAX_NAME: usize = 400;
const MAX_COMPONENT: usize = 120;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a name in a store: components of letters, digits and . _ - + = @, none beginning with a dot, \
     joined by /"
)]
pub struct NameError(String);

/// The name of an object: `wal/00000001/000000010000000000000003.zst`. Names are ASCII and compare by byte.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName(String);

/// The name of a partial object. Partials have a namespace of their own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartialName(String);

/// How names begin: whole components and, after them, the beginning of one. Empty: every name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Prefix(String);

impl ObjectName {
    pub fn new(name: impl Into<String>) -> Result<ObjectName, NameError> {
        let name = name.into();
        // Where a directory store keeps its partials.
        match is_name(&name) && !name.starts_with("partial/") {
            true => Ok(ObjectName(name)),
            false => Err(NameError(name)),
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl PartialName {
    pub fn new(name: impl Into<String>) -> Result<PartialName, NameError> {
        let name = name.into();
        match is_name(&name) {
            true => Ok(PartialName(name)),
            false => Err(NameError(name)),
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Prefix {
    pub fn new(prefix: impl Into<String>) -> Result<Prefix, NameError> {
        let prefix = prefix.into();
        match prefix.is_empty() || is_name(prefix.strip_suffix('/').unwrap_or(&prefix)) {
            true => Ok(Prefix(prefix)),
            false => Err(NameError(prefix)),
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The whole components: up to and with the last `/`.
    pub(crate) fn dir(&self) -> &str {
        &self.0[..self.0.rfind('/').map_or(0, |slash| slash + 1)]
    }
}

fn is_name(name: &str) -> bool {
    name.len() <= MAX_NAME && name.split('/').all(is_component)
}

fn is_component(part: &str) -> bool {
    (1..=MAX_COMPONENT).contains(&part.len())
        && !part.starts_with('.')
        && part
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-+=@".contains(&byte))
}

macro_rules! text {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<$name, NameError> {
                $name::new(text)
            }
        }
    )*};
}

text!(ObjectName, PartialName, Prefix);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_leads_out_of_a_store() {
        for bad in [
            "",
            "/",
            "a/",
            "/a",
            "a//b",
            "..",
            "a/../b",
            "a/.b",
            ".aside-1-2",
            "a b",
            "a\0",
            "ä",
            "a\\b",
        ] {
            assert!(ObjectName::new(bad).is_err(), "{bad:?}");
            assert!(PartialName::new(bad).is_err(), "{bad:?}");
        }
        assert!(ObjectName::new("x".repeat(MAX_COMPONENT + 1)).is_err());
        assert!(
            ObjectName::new("partial/a").is_err(),
            "that is where partials are"
        );
        for good in [
            "identity",
            "wal/00000001/000000010000000000000003.zst",
            "backup/2026-11-25T10-00/base.1",
        ] {
            assert_eq!(ObjectName::new(good).unwrap().as_str(), good);
        }
    }

    #[test]
    fn prefixes_may_end_in_a_slash_or_in_the_middle() {
        for good in ["", "wal/", "wal/0000", "wal"] {
            assert_eq!(Prefix::new(good).unwrap().as_str(), good);
        }
        assert_eq!(Prefix::new("a/b/c").unwrap().dir(), "a/b/");
        assert_eq!(Prefix::new("a").unwrap().dir(), "");
        assert!(Prefix::new("../").is_err() && Prefix::new("/").is_err());
    }
}
