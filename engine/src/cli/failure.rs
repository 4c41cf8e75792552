//! Errors as PostgreSQL prints them: ERROR, DETAIL, HINT, and the exit code that goes with them.

use std::error::Error as StdError;
use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

use skytide_sql::api::ApiError;
use skytide_sql::install::InstallError;
use skytide_wal::archive::ArchiveError;
use skytide_wal::backup::BackupError;
use skytide_wal::promote::{PromoteError, Refusal};
use skytide_wal::receive::ReceiveError;
use skytide_wal::server::ServerError;
use skytide_wal::ship::ShipError;
use skytide_wal::store::StoreError;
use skytide_wal::store::identity::IdentityError;
use skytide_wal::tail::TailError;
use tokio_postgres::error::SqlState;

use crate::capture::CaptureError;
use crate::config::ConfigError;
use crate::daemon::log::Verbosity;
use crate::qadmin::QadminError;
use crate::queue::QueueError;
use crate::worker::WorkerError;

/// What a failed command leaves with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// The work could not be done.
    Failed,
    /// The command line or the configuration has to be changed first.
    Usage,
}

impl Exit {
    fn code(self) -> u8 {
        match self {
            Exit::Failed => 1,
            Exit::Usage => 2,
        }
    }
}

/// An error a command wants to show in its own words.
#[derive(Debug)]
pub struct Failure {
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
    pub exit: Exit,
}

impl Failure {
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            detail: None,
            hint: None,
            exit: Exit::Failed,
        }
    }

    /// The user has to change the command or the configuration.
    pub fn usage(message: impl Into<String>) -> Self {
        Self {
            exit: Exit::Usage,
            ..Self::new(message)
        }
    }

    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// The exact command or setting that helps.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for Failure {}

/// What an error of a room knows beyond its one line.
pub trait Advice {
    fn detail(&self) -> Option<String> {
        None
    }

    fn hint(&self) -> Option<String> {
        None
    }

    fn exit(&self) -> Exit {
        Exit::Failed
    }
}

impl Advice for Failure {
    fn detail(&self) -> Option<String> {
        self.detail.clone()
    }

    fn hint(&self) -> Option<String> {
        self.hint.clone()
    }

    fn exit(&self) -> Exit {
        self.exit
    }
}

impl Advice for tokio_postgres::Error {
    fn detail(&self) -> Option<String> {
        self.as_db_error()
            .and_then(|error| error.detail())
            .map(str::to_owned)
    }

    fn hint(&self) -> Option<String> {
        self.as_db_error()
            .and_then(|error| error.hint())
            .map(str::to_owned)
    }
}

impl Advice for WorkerError {
    fn hint(&self) -> Option<String> {
        match self {
            WorkerError::Setup { fix, .. } => Some(fix.clone()),
            _ => None,
        }
    }
}

impl Advice for CaptureError {
    fn hint(&self) -> Option<String> {
        match self {
            CaptureError::Provider { fix, .. } | CaptureError::Slot { fix, .. } => Some(fix.clone()),
            _ => None,
        }
    }
}

/// Where a function or a table of the SQL modules is not there.
pub const INSTALL_HINT: &str =
    "Put the SQL modules into that database, or upgrade them: skytide install CONNECT-STRING";

impl Advice for ApiError {
    fn hint(&self) -> Option<String> {
        let (source, function) = match self {
            ApiError::Call { source, function } => (source, *function),
            ApiError::Answer(source) => (source, ""),
            _ => return None,
        };
        match *source.code()? {
            SqlState::INVALID_SCHEMA_NAME | SqlState::UNDEFINED_FUNCTION => Some(INSTALL_HINT.into()),
            // The original modules keep it elsewhere. What a function misses is no table of the modules.
            SqlState::UNDEFINED_TABLE if function.starts_with("read ") => Some(INSTALL_HINT.into()),
            SqlState::INSUFFICIENT_PRIVILEGE => Some(
                "skytide doctor --db CONNECT-STRING --as root, or --as leaf, names each grant that is missing.".into(),
            ),
            _ => None,
        }
    }
}

impl Advice for QueueError {
    fn hint(&self) -> Option<String> {
        match self {
            QueueError::NoQueue(queue) => Some(format!(
                "skytide queue list shows what there is, skytide queue create {queue} makes it."
            )),
            QueueError::NotRegistered { queue, consumer } => Some(format!(
                "skytide queue register {queue} {consumer}, or --register: it gets events from the newest tick on."
            )),
            QueueError::LostPosition {
                queue,
                consumer,
                done,
                prev,
                ..
            } => Some(format!(
                "To go on after what is done there: skytide queue seek {queue} {consumer} --tick {done}\n\
                 To go on where the queue is: skytide queue seek {queue} {consumer} --tick {prev} --target CONNECT-STRING"
            )),
            QueueError::Api(error) => error.hint(),
            _ => None,
        }
    }
}

impl Advice for InstallError {
    fn hint(&self) -> Option<String> {
        self.fix()
    }
}

type Adviser = for<'a> fn(&'a (dyn StdError + 'static)) -> Option<&'a dyn Advice>;

/// A room whose errors give advice adds its line here.
const ADVISERS: &[Adviser] = &[
    advice::<Failure>,
    advice::<ConfigError>,
    advice::<tokio_postgres::Error>,
    advice::<WorkerError>,
    advice::<CaptureError>,
    advice::<ApiError>,
    advice::<QueueError>,
    advice::<QadminError>,
    advice::<InstallError>,
    advice::<ArchiveError>,
    advice::<PromoteError>,
    advice::<Refusal>,
    advice::<ReceiveError>,
    advice::<ShipError>,
    advice::<ServerError>,
    advice::<TailError>,
    advice::<BackupError>,
    advice::<IdentityError>,
    advice::<StoreError>,
];

fn advice<'a, E: StdError + Advice + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a dyn Advice> {
    error.downcast_ref::<E>().map(|error| error as &dyn Advice)
}

/// Whoever read our output has gone: no error, and nobody to tell.
#[derive(Debug, thiserror::Error)]
#[error("the reader of standard output is gone")]
pub struct ClosedPipe;

/// Print an error to standard error and say how to leave.
pub fn report(error: &anyhow::Error, verbosity: Verbosity) -> ExitCode {
    if error.downcast_ref::<ClosedPipe>().is_some() {
        return ExitCode::SUCCESS;
    }
    let text = render(error, verbosity);
    // With standard error gone too, the exit code is all that is left to say.
    let _ = io::stderr().lock().write_all(text.as_bytes());
    ExitCode::from(exit_of(error).code())
}

fn exit_of(error: &anyhow::Error) -> Exit {
    advisers(error)
        .map(Advice::exit)
        .find(|exit| *exit != Exit::Failed)
        .unwrap_or(Exit::Failed)
}

fn advisers(error: &anyhow::Error) -> impl Iterator<Item = &dyn Advice> {
    error
        .chain()
        .filter_map(|link| ADVISERS.iter().find_map(|adviser| adviser(link)))
}

/// The first link is the ERROR. DETAIL is what an adviser says, or else the causes in one line.
fn render(error: &anyhow::Error, verbosity: Verbosity) -> String {
    let mut links = error.chain().map(one_line);
    let message = links.next().unwrap_or_default();
    let causes: Vec<String> = links.collect();

    let mut details = Vec::new();
    if !causes.is_empty() && !verbosity.shows_causes() {
        details.push(causes.join(": "));
    }
    details.extend(advisers(error).filter_map(Advice::detail));
    let mut text = String::new();
    field(&mut text, "ERROR", &message);
    if verbosity.shows_causes() {
        causes.iter().for_each(|cause| field(&mut text, "CAUSE", cause));
    }
    details
        .iter()
        .for_each(|detail| field(&mut text, "DETAIL", detail));
    if let Some(hint) = advisers(error).find_map(Advice::hint) {
        field(&mut text, "HINT", &hint);
    }
    text
}

/// A link's own text. `tokio_postgres` says only "db error" and keeps the server's message inside.
fn one_line(link: &(dyn StdError + 'static)) -> String {
    match link.downcast_ref::<tokio_postgres::error::DbError>() {
        Some(error) => format!("{} (SQLSTATE {})", error.message(), error.code().code()),
        None => link.to_string(),
    }
}

fn field(text: &mut String, name: &str, value: &str) {
    text.push_str(name);
    text.push_str(":  ");
    // Continuation lines are indented by a tab, as the server does it.
    text.push_str(&value.trim_end().replace('\n', "\n\t"));
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn a_failure_prints_as_postgresql_does() {
        let error = anyhow::Error::new(
            Failure::usage("wal_level is replica")
                .detail("WAL capture decodes rows.")
                .hint("Set it to logical."),
        );
        let text = render(&error, Verbosity::Normal);
        assert_eq!(
            text,
            "ERROR:  wal_level is replica\nDETAIL:  WAL capture decodes rows.\nHINT:  Set it to logical.\n"
        );
        assert_eq!(exit_of(&error), Exit::Usage);
    }

    #[test]
    fn causes_fold_into_one_detail_line_and_unfold_when_verbose() {
        let error = Err::<(), _>(io::Error::other("no such place"))
            .context("read header")
            .context("open spool")
            .expect_err("it is an error");
        assert_eq!(
            render(&error, Verbosity::Normal),
            "ERROR:  open spool\nDETAIL:  read header: no such place\n"
        );
        assert_eq!(
            render(&error, Verbosity::Debug),
            "ERROR:  open spool\nCAUSE:  read header\nCAUSE:  no such place\n"
        );
    }

    #[test]
    fn advice_is_found_below_a_context() {
        let error = anyhow::Error::new(Failure::usage("queue_name is missing").hint("Add it."))
            .context("start worker");
        assert_eq!(
            render(&error, Verbosity::Normal),
            "ERROR:  start worker\nDETAIL:  queue_name is missing\nHINT:  Add it.\n"
        );
        assert_eq!(exit_of(&error), Exit::Usage);
    }

    #[test]
    fn several_lines_are_indented() {
        let text = render(&anyhow::anyhow!("one\ntwo"), Verbosity::Normal);
        assert_eq!(text, "ERROR:  one\n\ttwo\n");
    }
}
