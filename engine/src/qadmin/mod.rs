//! `qadmin`, the console for queues, consumers and nodes.
//!
//! Text becomes tokens (`lex`), tokens a command (`grammar`, on a `cursor` that remembers what it was asked
//! for), a command one or more calls (`change`, `show`, `londiste`), and all calls go through the `console`.

mod answer;
mod call;
mod change;
mod command;
mod complete;
pub mod console;
mod cursor;
mod editor;
mod error;
mod foreign;
mod grammar;
mod help;
mod lex;
mod londiste;
mod names;
mod queries;
mod script;
mod show;

pub use console::{Mode, Settings};
pub use error::{ParseError, QadminError};

use console::Console;

/// Where commands come from.
pub enum Input {
    Text(String),
    /// Standard input, read as it comes.
    Pipe,
    Terminal,
}

pub async fn run(settings: Settings, input: Input) -> anyhow::Result<()> {
    let mut console = Console::open(settings).await?;
    match input {
        Input::Text(text) => script::run_all(&mut console, &text).await,
        Input::Pipe => script::run_pipe(&mut console).await,
        Input::Terminal => return editor::run(&mut console).await,
    }
    .map(drop)
    .map_err(script::outward)
}
