//! The line editor at a terminal.

use std::fs::{self, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::DefaultHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{CompletionType, Config, Editor, Helper};
use tokio::task::block_in_place;

use super::complete::complete;
use super::console::{Console, Flow};
use super::foreign::Transaction;
use super::lex::Script;
use super::names::ServerNames;
use super::{script, show};
use crate::cli::failure;
use crate::daemon::log::Verbosity;

const HISTORY_FILE: &str = ".qadmin_history";
const HISTORY_ENTRIES: usize = 2000;

/// What the editor asks while somebody types.
struct Assistant {
    names: ServerNames,
}

impl Completer for Assistant {
    type Candidate = String;

    fn complete(
        &self,
        line: &str,
        at: usize,
        _context: &rustyline::Context<'_>,
    ) -> rustyline::Result<(usize, Vec<String>)> {
        let completion = complete(line, at, &self.names);
        Ok((completion.start, completion.candidates))
    }
}

impl Validator for Assistant {
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        Ok(match is_ready(context.input()) {
            true => ValidationResult::Valid(None),
            false => ValidationResult::Incomplete,
        })
    }
}

impl Hinter for Assistant {
    type Hint = String;
}

impl Highlighter for Assistant {}

impl Helper for Assistant {}

/// Words that need no semicolon, because whoever types them does not know what it is for.
fn bare_word(text: &str) -> Option<&'static str> {
    match text.trim() {
        "exit" | "quit" | "\\q" => Some("exit;"),
        "help" | "\\?" | "?" => Some("show help;"),
        _ => None,
    }
}

/// Enter ends the input, or goes on to the next line.
fn is_ready(text: &str) -> bool {
    bare_word(text).is_some() || Script::read(text).is_complete()
}

/// Passwords do not go into the history file.
fn may_be_remembered(text: &str) -> bool {
    let script = Script::read(text);
    !script.statements.iter().any(|statement| {
        let mut tokens = statement.tokens.iter();
        tokens.any(|token| token.is_word("password"))
    })
}

fn history_path() -> Option<PathBuf> {
    std::env::home_dir().map(|home| home.join(HISTORY_FILE))
}

/// Only its owner may read it, whoever made it.
fn guard_history(path: &Path) -> io::Result<()> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o600))
}

fn prompt(console: &Console) -> String {
    let queue = console.queue.as_ref().map_or("(noqueue)", |queue| queue.as_str());
    let mark = match console.transaction() {
        Transaction::None => "",
        Transaction::Open => "*",
    };
    format!("{queue}@{}{mark}> ", console.target().dbname())
}

pub async fn run(console: &mut Console) -> anyhow::Result<()> {
    let config = Config::builder()
        .completion_type(CompletionType::List)
        .max_history_size(HISTORY_ENTRIES)
        .context("set up the line editor")?
        .history_ignore_space(true)
        .build();
    let mut editor: Editor<Assistant, DefaultHistory> =
        Editor::with_config(config).context("set up the line editor")?;
    editor.set_helper(Some(Assistant {
        names: ServerNames::new(console.target().clone()),
    }));
    let history = history_path();
    if let Some(path) = &history {
        let guarded = guard_history(path).map_err(ReadlineError::from);
        if let Err(error) = guarded.and_then(|()| editor.load_history(path)) {
            console
                .output()
                .warn(&format!("no history from {}: {error}", path.display()));
        }
    }
    greet(console).await?;
    loop {
        if let Some(assistant) = editor.helper() {
            assistant
                .names
                .begin_prompt(console.target(), console.queue.as_ref());
        }
        let prompt = prompt(console);
        // Blocking the thread is what makes the editor's own questions to the server possible.
        let text = match block_in_place(|| editor.readline(&prompt)) {
            Ok(text) => text,
            Err(ReadlineError::Interrupted) => continue,
            Err(ReadlineError::Eof) => return Ok(()),
            Err(error) => return Err(anyhow::Error::new(error).context("read from the terminal")),
        };
        if text.trim().is_empty() {
            continue;
        }
        if may_be_remembered(&text) {
            remember(&mut editor, &text, history.as_deref());
        }
        console.forget_interrupts();
        let text = bare_word(&text).unwrap_or(&text);
        match script::run_statements(console, text).await {
            Ok(Flow::Go) => {}
            Ok(Flow::Exit) => return Ok(()),
            Err(error) => {
                failure::report(&script::outward(error), Verbosity::Normal);
            }
        }
    }
}

fn remember(editor: &mut Editor<Assistant, DefaultHistory>, text: &str, path: Option<&Path>) {
    let added = editor.add_history_entry(text);
    let saved = added.and_then(|_| match path {
        Some(path) => editor.append_history(path),
        None => Ok(()),
    });
    if let Err(error) = saved {
        tracing::debug!(error = %error, "history not written");
    }
}

async fn greet(console: &mut Console) -> anyhow::Result<()> {
    let versions = show::versions(console).await.map_err(script::outward)?;
    console.output().note(&format!(
        "qadmin {}, server {}, PgQ {}. show help; lists the commands.",
        env!("CARGO_PKG_VERSION"),
        versions.server,
        versions.pgq
    ));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn enter_goes_on_until_the_semicolon() {
        for text in [
            "show queue;",
            "",
            "  ",
            "exit",
            " \\q ",
            "help",
            "-- nothing",
            "a; b;",
        ] {
            assert!(is_ready(text), "{text:?}");
        }
        for text in [
            "show queue",
            "select 'a;",
            "create rule r as do (a;",
            "select $$;",
            "/* ;",
            "a; b",
        ] {
            assert!(!is_ready(text), "{text:?}");
        }
    }

    #[test]
    fn passwords_are_not_remembered() {
        assert!(!may_be_remembered("connect user=u password='x';"));
        assert!(!may_be_remembered("alter role u password 'x';"));
        assert!(may_be_remembered("connect user=u;"));
    }

    #[test]
    fn only_its_owner_may_read_the_history() {
        let directory = tempfile::tempdir().unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let new = directory.path().join("new");
        guard_history(&new).unwrap();
        assert_eq!(mode(&new), 0o600);
        let old = directory.path().join("old");
        fs::write(&old, "show queue;\n").unwrap();
        fs::set_permissions(&old, Permissions::from_mode(0o644)).unwrap();
        guard_history(&old).unwrap();
        assert_eq!(mode(&old), 0o600);
        assert_eq!(fs::read_to_string(&old).unwrap(), "show queue;\n");
    }
}
