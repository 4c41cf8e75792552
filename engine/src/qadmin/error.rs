//! What can go wrong in the console, and where in the text.

use std::fmt;

use skytide_sql::conn::{ConnectError, ConnectStringError};
use skytide_sql::install::InstallError;
use skytide_sql::names::BadName;
use tokio_postgres::error::{DbError, ErrorPosition};

use super::cursor::Expected;
use super::lex::Open;
use crate::capture::CaptureError;
use crate::cli::failure::{Advice, Exit, INSTALL_HINT};

/// A place in a text, to be shown with the line it is in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pointer {
    line: usize,
    column: usize,
    width: usize,
    text: String,
}

impl Pointer {
    /// `start` and `end` are bytes of `text`; a place outside is its end.
    pub fn new(text: &str, start: usize, end: usize) -> Pointer {
        let before = text.get(..start).unwrap_or(text);
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let line = text.get(line_start..).unwrap_or_default();
        let line = line.lines().next().unwrap_or_default();
        let column = before.get(line_start..).unwrap_or_default().chars().count();
        let marked = text.get(before.len()..end).unwrap_or_default();
        let width = marked.lines().next().unwrap_or_default().chars().count();
        Pointer {
            line: before.matches('\n').count() + 1,
            column: column + 1,
            width: width.max(1),
            // A tab is as wide as the terminal likes, and the mark has to be under its character.
            text: line.replace('\t', " "),
        }
    }

    /// At a character as the server counts them: from 1.
    fn at_character(text: &str, position: u32) -> Pointer {
        let skip = usize::try_from(position).unwrap_or(1).saturating_sub(1);
        let start = text.char_indices().nth(skip).map_or(text.len(), |(at, _)| at);
        let word = text.get(start..).unwrap_or_default();
        let end = word
            .find(|c: char| !c.is_alphanumeric() && c != '_')
            .unwrap_or(word.len());
        Pointer::new(text, start, start + end)
    }
}

impl fmt::Display for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (line, column) = (self.line, self.column);
        let indent = " ".repeat(column - 1);
        let mark = "^".repeat(self.width);
        write!(f, "line {line}, column {column}:\n{}\n{indent}{mark}", self.text)
    }
}

/// A command that was not understood.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ParseError {
    #[error("{}, expected {}", unexpected(.found.as_deref()), listed(.expected))]
    Unexpected {
        /// `None`: the command ended.
        found: Option<String>,
        expected: Vec<Expected>,
        place: Pointer,
        did_you_mean: Option<&'static str>,
    },
    #[error("{error}")]
    Name { error: BadName, place: Pointer },
    #[error("{} is not ended", .open.noun())]
    Open { open: Open, place: Pointer },
}

fn unexpected(found: Option<&str>) -> String {
    match found {
        Some(found) => format!("unexpected {found:?}"),
        None => "the command ends too early".to_owned(),
    }
}

fn listed(expected: &[Expected]) -> String {
    let mut words: Vec<String> = expected.iter().map(Expected::to_string).collect();
    words.dedup();
    match words.pop() {
        Some(last) if words.is_empty() => last,
        Some(last) => format!("{} or {last}", words.join(", ")),
        None => "nothing".to_owned(),
    }
}

impl Advice for ParseError {
    fn detail(&self) -> Option<String> {
        let (ParseError::Unexpected { place, .. }
        | ParseError::Name { place, .. }
        | ParseError::Open { place, .. }) = self;
        Some(place.to_string())
    }

    fn hint(&self) -> Option<String> {
        match self {
            ParseError::Unexpected {
                did_you_mean: Some(word),
                ..
            } => Some(format!("Did you mean {word:?}?")),
            ParseError::Open { .. } => None,
            _ => Some("show help; lists the commands.".to_owned()),
        }
    }

    fn exit(&self) -> Exit {
        Exit::Usage
    }
}

/// A command that could not be carried out.
#[derive(Debug, thiserror::Error)]
pub enum QadminError {
    #[error(transparent)]
    Parse(#[from] ParseError),
    #[error("{}", .0.message())]
    Server(Box<ServerError>),
    /// A function of the SQL modules said no.
    #[error("{note} ({code})")]
    Refused { code: i32, note: String },
    #[error("the link to the server failed")]
    Link(#[source] tokio_postgres::Error),
    #[error("{kind} {name:?} not found")]
    NotFound { kind: &'static str, name: String },
    #[error("which queue?")]
    NoQueue,
    #[error("{what} cannot be done here")]
    Unsupported { what: &'static str, hint: &'static str },
    #[error("connect")]
    Connect(#[from] ConnectError),
    #[error("read the connect string")]
    ConnectString(#[from] ConnectStringError),
    #[error("install the SQL modules")]
    Install(#[from] InstallError),
    #[error("change the publication")]
    Publish(#[from] CaptureError),
    #[error(transparent)]
    Name(#[from] BadName),
    #[error("read the commands")]
    Input(#[source] std::io::Error),
    #[error("interrupted")]
    Interrupted,
    #[error(transparent)]
    Print(anyhow::Error),
}

/// An ERROR of the server, with the place in the statement it is about.
#[derive(Debug)]
pub struct ServerError {
    error: DbError,
    place: Option<Pointer>,
    pub hint: Option<String>,
}

impl ServerError {
    pub fn message(&self) -> &str {
        self.error.message()
    }

    pub fn code(&self) -> &str {
        self.error.code().code()
    }
}

impl QadminError {
    /// `sql` is the statement as it was sent.
    pub fn from_server(error: tokio_postgres::Error, sql: &str) -> QadminError {
        let Some(db_error) = error.as_db_error() else {
            return QadminError::Link(error);
        };
        let place = match db_error.position() {
            Some(ErrorPosition::Original(position)) => Some(Pointer::at_character(sql, *position)),
            _ => None,
        };
        QadminError::Server(Box::new(ServerError {
            error: db_error.clone(),
            place,
            hint: db_error.hint().map(str::to_owned),
        }))
    }
}

impl QadminError {
    /// An error of a statement of our own: what it misses is a part of the SQL modules.
    pub fn from_call(error: tokio_postgres::Error, sql: &str) -> QadminError {
        let mut error = QadminError::from_server(error, sql);
        if let QadminError::Server(server) = &mut error
            && ["3F000", "42883", "42P01"].contains(&server.code())
        {
            server.hint = Some(INSTALL_HINT.to_owned());
        }
        error
    }
}

impl Advice for QadminError {
    fn detail(&self) -> Option<String> {
        match self {
            QadminError::Parse(error) => error.detail(),
            QadminError::Server(error) => {
                let detail = error.error.detail().map(str::to_owned);
                let place = error.place.as_ref().map(Pointer::to_string);
                match (detail, place) {
                    (Some(detail), Some(place)) => Some(format!("{detail}\n{place}")),
                    (detail, place) => detail.or(place),
                }
            }
            _ => None,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            QadminError::Parse(error) => error.hint(),
            QadminError::Server(error) => error.hint.clone(),
            QadminError::NoQueue => Some("Name it in the command, or before: connect queue=NAME;".to_owned()),
            QadminError::Unsupported { hint, .. } => Some((*hint).to_owned()),
            _ => None,
        }
    }

    fn exit(&self) -> Exit {
        match self {
            QadminError::Parse(_)
            | QadminError::NoQueue
            | QadminError::Name(_)
            | QadminError::ConnectString(_) => Exit::Usage,
            _ => Exit::Failed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pointer_marks_its_word() {
        let text = "show queue;\n\tcreate quue x;";
        let pointer = Pointer::new(text, 20, 24);
        assert_eq!(
            pointer.to_string(),
            "line 2, column 9:\n create quue x;\n        ^^^^"
        );
        assert_eq!(Pointer::new("ab", 2, 2).to_string(), "line 1, column 3:\nab\n  ^");
        assert_eq!(Pointer::new("é", 9, 12).to_string(), "line 1, column 2:\né\n ^");
        assert_eq!(
            Pointer::at_character("é frm x", 3).to_string(),
            "line 1, column 3:\né frm x\n  ^^^"
        );
    }
}
