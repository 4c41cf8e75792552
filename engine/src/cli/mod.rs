//! The command line: arguments → settings → a call into a room → output.

pub mod compat;
pub mod completion;
pub mod dev;
pub mod docs;
pub mod doctor;
pub mod failure;
pub mod install;
pub mod londiste;
pub mod output;
pub mod promote;
pub mod qadmin;
pub mod queue;
pub mod shell;
pub mod spool;
pub mod ticker;
pub mod wal;
pub mod walmgr;

use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use tokio_util::sync::CancellationToken;

use crate::daemon::log::{self, LogFormat, LogHandle, Verbosity};
use output::{Output, OutputMode};

/// What a command that did its work has to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Outcome {
    Done,
    /// The question was answered, and the answer is no: tables differ, the doctor found something.
    No,
    /// Somebody else says what the codes mean: PostgreSQL, of its `restore_command`.
    Code(u8),
}

impl Outcome {
    pub fn exit_code(self) -> ExitCode {
        match self {
            Outcome::Done => ExitCode::SUCCESS,
            Outcome::No => ExitCode::from(3),
            Outcome::Code(code) => ExitCode::from(code),
        }
    }
}

/// What every command is given beside its own arguments.
pub struct Context {
    pub output: Output,
    /// Cancelled when the program shall stop. Only long-running commands arm it with signals.
    pub shutdown: CancellationToken,
    pub log: LogHandle,
}

#[derive(Parser, Debug)]
#[command(name = "skytide", version, about, long_about = LONG_ABOUT, after_help = EXIT_CODES)]
#[command(
    disable_help_subcommand = true,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub struct Cli {
    #[command(flatten)]
    pub globals: Globals,
    #[command(subcommand)]
    pub command: Command,
}

const LONG_ABOUT: &str = "\
PgQ, Londiste and walmgr as one native engine.

Tables are followed from the WAL of one PostgreSQL and applied to another in batches cut by PgQ ticks. A link to \
this program named `londiste`, `pgqd`, `walmgr` or `qadmin` takes the old arguments and the old configuration files.";

const EXIT_CODES: &str = "Exit codes: 0 done, 1 failed, 2 usage or configuration, 3 the answer is no.";

#[derive(Args, Debug, Clone)]
pub struct Globals {
    /// Say more: once for debug, twice for every message; errors show their whole chain.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Say nothing but warnings and errors; with -v the log says what that asks for.
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// How log lines are written.
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text, env = "SKYTIDE_LOG_FORMAT")]
    pub log_format: LogFormat,
    /// Colours: on a terminal, always, or never.
    #[arg(long, global = true, value_enum, default_value_t = ColorChoice::Auto)]
    pub color: ColorChoice,
    /// Print results as JSON instead of a table.
    #[arg(long, global = true)]
    pub json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ColorChoice {
    Auto,
    Always,
    Never,
}

impl Globals {
    pub fn verbosity(&self) -> Verbosity {
        match (self.quiet, self.verbose) {
            (true, 0) => Verbosity::Quiet,
            (false, 0) => Verbosity::Normal,
            (_, 1) => Verbosity::Debug,
            (_, _) => Verbosity::Trace,
        }
    }

    fn output_mode(&self) -> OutputMode {
        if self.json {
            OutputMode::Json
        } else {
            OutputMode::Table
        }
    }
}

#[derive(Subcommand, Debug)]
pub enum Command {
    Install(install::InstallArgs),
    Doctor(doctor::DoctorArgs),
    /// Replicate tables: make nodes, add tables, run the worker, watch and compare.
    Londiste(londiste::LondisteArgs),
    Qadmin(qadmin::QadminArgs),
    Spool(spool::SpoolArgs),
    Ticker(ticker::TickerArgs),
    Wal(wal::WalArgs),
    Queue(queue::QueueArgs),
    /// Archive WAL and get it back: stores, archive_command, restore_command.
    Walmgr(walmgr::WalmgrArgs),
    Promote(promote::PromoteArgs),
    Dev(dev::DevArgs),
    Completion(completion::CompletionArgs),
    Docs(docs::DocsArgs),
}

/// Understand what the user typed, old forms included.
pub fn parse(call: &compat::Call) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(call.arguments())
}

/// The whole command tree, for help pages and tests.
pub fn command() -> clap::Command {
    Cli::command()
}

pub async fn run(cli: Cli) -> anyhow::Result<Outcome> {
    let Cli { globals, command } = cli;
    let context = Context {
        output: Output::new(globals.output_mode(), globals.color, globals.quiet),
        shutdown: CancellationToken::new(),
        log: log::install(globals.log_format, globals.verbosity(), globals.quiet)?,
    };
    match command {
        Command::Londiste(args) => Box::pin(londiste::run(args, &context)).await,
        Command::Install(args) => install::run(args, &context).await,
        Command::Doctor(args) => doctor::run(args, &context).await,
        Command::Qadmin(args) => Box::pin(qadmin::run(args, &context)).await,
        Command::Completion(args) => completion::run(&args, &context),
        Command::Spool(args) => spool::run(args, &context),
        Command::Ticker(args) => ticker::run(args, &context).await,
        Command::Wal(args) => wal::run(args, &context),
        Command::Walmgr(args) => Box::pin(walmgr::run(args, &context)).await,
        Command::Promote(args) => Box::pin(promote::run(args, &context)).await,
        Command::Queue(args) => Box::pin(queue::run(args, &context)).await,
        Command::Dev(args) => Box::pin(dev::run(args, &context)).await,
        Command::Docs(args) => docs::run(&args),
    }
}
