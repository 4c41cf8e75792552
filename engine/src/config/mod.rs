//! Configuration: the old INI files, one table of keys, typed settings out.

pub mod ini;
pub mod keys;
mod layers;
pub mod pages;
pub mod settings;
pub mod unit;

use std::io;
use std::path::{Path, PathBuf};

use skytide_sql::conn::{ConnectString, ConnectStringError};

use crate::cli::failure::{Advice, Exit};
pub use ini::Place;

/// A stored connect string, with what `extra` says in its place. The environment gives a password, nothing else: what a
/// file or a database says means the same wherever it is read.
pub fn connect_string(text: &str, extra: &str) -> Result<ConnectString, ConnectStringError> {
    Ok(ConnectString::parse_with_extra(text, extra)?.or_password_of(variable))
}

/// A variable of this process.
pub fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    #[error("cannot read configuration file {path}", path = path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{place}: {what}")]
    Syntax { place: Place, what: String },
    #[error("{path} has no section [{section}]", path = path.display())]
    NoSection {
        path: PathBuf,
        section: String,
        found: Vec<String>,
    },
    #[error("{place}: unknown key {key:?}")]
    UnknownKey {
        place: Place,
        key: String,
        nearest: Option<&'static str>,
    },
    #[error("{place}: key {key} asks for {reference:?}, which is not set")]
    Interpolation {
        place: Place,
        key: String,
        reference: String,
    },
    #[error("{place}: bad value for {key}: {what}")]
    Value {
        place: Place,
        key: &'static str,
        what: String,
    },
    #[error("{path} does not set {key}", path = path.display())]
    Missing {
        path: PathBuf,
        key: &'static str,
        doc: &'static str,
    },
}

impl Advice for ConfigError {
    fn detail(&self) -> Option<String> {
        match self {
            ConfigError::NoSection { found, .. } if found.is_empty() => {
                Some("The file has no sections.".into())
            }
            ConfigError::NoSection { found, .. } => Some(format!("It has [{}].", found.join("], ["))),
            ConfigError::Missing { doc, .. } => Some((*doc).into()),
            _ => None,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            ConfigError::UnknownKey {
                nearest: Some(nearest),
                ..
            } => Some(format!("Did you mean {nearest}?")),
            ConfigError::UnknownKey { nearest: None, .. } => Some("--ini prints all keys.".into()),
            ConfigError::NoSection { section, .. } => {
                Some(format!("Begin the settings with a line [{section}]."))
            }
            ConfigError::Missing { key, .. } => Some(format!("Add a line: {key} = …")),
            ConfigError::Interpolation { reference, .. } => Some(format!(
                "Set {reference}, or write a doubled sign (%% or $$) where the text is meant literally."
            )),
            _ => None,
        }
    }

    fn exit(&self) -> Exit {
        Exit::Usage
    }
}

/// What the command line adds to a configuration file.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// `--set key=value`, in the order given.
    pub set: Vec<(String, String)>,
}

impl Overrides {
    /// Parse the arguments of `--set`.
    pub fn from_arguments(arguments: &[String]) -> Result<Self, ConfigError> {
        let set = arguments
            .iter()
            .map(|argument| match argument.split_once('=') {
                Some((key, value)) => Ok((key.trim().to_owned(), value.trim().to_owned())),
                None => Err(ConfigError::Syntax {
                    place: Place::CommandLine,
                    what: format!("--set {argument:?} is not key=value"),
                }),
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { set })
    }
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
