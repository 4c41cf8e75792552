//! `skytide qadmin`: arguments → the console.

use std::io::{self, IsTerminal as _, Read as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use skytide_sql::QueueName;
use skytide_sql::conn::ConnectString;

use super::{Context, Outcome};
use crate::qadmin::{self, Input, Mode, QadminError, Settings};

/// Look after queues, consumers and nodes in a console
///
/// At a terminal it is interactive, with Tab completion and a history in ~/.qadmin_history; otherwise it
/// carries out the commands of -c, of -f or of standard input and stops at the first that fails. `show help;`
/// lists the commands; what is not one of them is SQL and goes to the server.
///
/// The connection is described as for psql: by switches, a database name, a connect string, and the PG*
/// environment.
#[derive(clap::Args, Debug)]
#[command(
    disable_help_flag = true,
    after_help = "Examples:\n  skytide qadmin -h db1 shop\n  \
                        skytide qadmin 'host=db1 dbname=shop' -c 'show queue'\n  \
                        skytide qadmin -d shop -Q orders -c 'register consumer mover' --dry-run"
)]
pub struct QadminArgs {
    /// Database name, or a connect string: key=value pairs or a URL.
    #[arg(value_name = "DBNAME|CONNSTR")]
    target: Option<String>,
    /// The server's host, or the directory of its socket.
    #[arg(short = 'h', long)]
    host: Option<String>,
    /// The server's port.
    #[arg(short = 'p', long)]
    port: Option<u16>,
    /// Who to be there.
    #[arg(short = 'U', long)]
    user: Option<String>,
    /// Database name.
    #[arg(short = 'd', long, conflicts_with = "target")]
    dbname: Option<String>,
    /// The default queue: for commands that do not name one.
    #[arg(short = 'Q', long)]
    queue: Option<String>,
    /// Carry out these commands and leave; the last semicolon may be missing.
    #[arg(
        short = 'c',
        long,
        value_name = "COMMANDS",
        conflicts_with = "file",
        allow_hyphen_values = true
    )]
    command: Option<String>,
    /// Carry out the commands of this file and leave; - is standard input.
    #[arg(short = 'f', long)]
    file: Option<PathBuf>,
    /// Print the SQL of each command and do not run it.
    #[arg(long)]
    dry_run: bool,
    /// Print the SQL of each command to standard error, and run it.
    #[arg(short = 'e', long, conflicts_with = "dry_run")]
    echo: bool,
    /// Print help.
    #[arg(long, action = clap::ArgAction::Help)]
    help: Option<bool>,
}

impl QadminArgs {
    fn target(&self) -> Result<ConnectString, QadminError> {
        let given = self.target.as_deref().unwrap_or_default();
        let is_connect_string = given.contains('=') || given.contains("://");
        let (connect_string, dbname) = match is_connect_string {
            true => (given, None),
            false => ("", self.target.as_deref()),
        };
        let base = ConnectString::parse_with_environment(connect_string, |name| std::env::var(name).ok())?;
        let port = self.port.map(|port| port.to_string());
        let switches = [
            ("host", self.host.as_deref()),
            ("port", port.as_deref()),
            ("user", self.user.as_deref()),
            ("dbname", self.dbname.as_deref().or(dbname)),
        ];
        let changes: Vec<(&str, &str)> = switches
            .into_iter()
            .filter_map(|(keyword, value)| Some((keyword, value?)))
            .collect();
        Ok(base.with(&changes)?)
    }

    fn mode(&self) -> Mode {
        match (self.dry_run, self.echo) {
            (true, _) => Mode::DryRun,
            (false, true) => Mode::Echo,
            (false, false) => Mode::Run,
        }
    }

    fn input(&self) -> anyhow::Result<Input> {
        Ok(match (&self.command, &self.file) {
            (Some(text), _) => Input::Text(text.clone()),
            (None, Some(path)) => Input::Text(read(path)?),
            (None, None) if io::stdin().is_terminal() => Input::Terminal,
            (None, None) => Input::Pipe,
        })
    }
}

fn read(path: &Path) -> anyhow::Result<String> {
    if path == Path::new("-") {
        let mut text = String::new();
        io::stdin()
            .read_to_string(&mut text)
            .context("read standard input")?;
        return Ok(text);
    }
    std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))
}

pub async fn run(args: QadminArgs, context: &Context) -> anyhow::Result<Outcome> {
    let settings = Settings {
        target: args.target()?,
        queue: args
            .queue
            .as_deref()
            .map(QueueName::stored)
            .transpose()
            .map_err(QadminError::from)?,
        mode: args.mode(),
        output: context.output.clone(),
    };
    let input = args.input()?;
    Box::pin(qadmin::run(settings, input)).await?;
    Ok(Outcome::Done)
}
