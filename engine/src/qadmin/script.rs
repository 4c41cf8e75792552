//! Statements from a text, a file or a pipe.

use std::io::{self, BufRead as _};

use tokio::sync::mpsc;

use super::console::{Console, Flow};
use super::error::{ParseError, Pointer, QadminError};
use super::grammar;
use super::lex::Script;

/// Carries out statements until one fails.
pub async fn run_statements(console: &mut Console, text: &str) -> Result<Flow, QadminError> {
    for statement in &Script::read(text).statements {
        if console.execute(text, statement).await? == Flow::Exit {
            return Ok(Flow::Exit);
        }
    }
    Ok(Flow::Go)
}

/// A whole text: nothing is done unless all of it is understood. The last semicolon may be missing.
pub async fn run_all(console: &mut Console, text: &str) -> Result<Flow, QadminError> {
    let script = Script::read(text);
    if let Some((open, start)) = script.open {
        let place = Pointer::new(text, start, start);
        return Err(ParseError::Open { open, place }.into());
    }
    let statements: Vec<_> = script.statements.into_iter().chain(script.rest).collect();
    for statement in &statements {
        grammar::parse(text, statement)?;
    }
    for statement in &statements {
        if console.execute(text, statement).await? == Flow::Exit {
            return Ok(Flow::Exit);
        }
    }
    Ok(Flow::Go)
}

/// A pipe: each statement is carried out as soon as it is there, since whoever writes may wait for it.
pub async fn run_pipe(console: &mut Console) -> Result<Flow, QadminError> {
    let mut lines = lines_of_stdin();
    let mut pending = String::new();
    while let Some(line) = console.unless_interrupted(lines.recv()).await? {
        let line = line.map_err(QadminError::Input)?;
        pending.push_str(&line);
        pending.push('\n');
        if !line.contains(';') {
            continue;
        }
        if run_statements(console, &pending).await? == Flow::Exit {
            return Ok(Flow::Exit);
        }
        let script = Script::read(&pending);
        let rest = match (script.rest, script.open) {
            (Some(statement), _) => statement.span().0,
            (None, Some((_, start))) => start,
            (None, None) => pending.len(),
        };
        pending.drain(..rest);
    }
    run_all(console, &pending).await
}

/// A thread of its own waits for the pipe, so that Ctrl-C need not.
fn lines_of_stdin() -> mpsc::Receiver<io::Result<String>> {
    let (sender, receiver) = mpsc::channel(1);
    std::thread::spawn(move || {
        for line in io::stdin().lock().lines() {
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

/// For the outer world: an output that could not be written is not the console's failure.
pub fn outward(error: QadminError) -> anyhow::Error {
    match error {
        QadminError::Print(error) => error,
        error => error.into(),
    }
}
