//! `synch-standby`: which standbys commits wait for.

use std::time::Duration;

use serde::Serialize;
use skytide_sql::conn::{ConnectString, connect};
use skytide_wal::server::{self, Connected, SyncNames};

use super::target;
use crate::cli::failure::Failure;
use crate::cli::output::OutputMode;
use crate::cli::{Context, Outcome};
use crate::config::settings::WalmgrSettings;
use crate::config::unit;

pub const HELP: &str = "\
NAMES is what synchronous_standby_names takes: a name, several with commas, '*', 'FIRST 2 (a, b, c)', 'ANY 1 (a, b)'; '' \
lets commits wait for nobody. It is refused while fewer of them stream than a commit would wait for. receive counts, as \
receive_name.

Examples:
  skytide walmgr /etc/skytide/wal.ini synch-standby skytide
  skytide walmgr /etc/skytide/wal.ini synch-standby 'ANY 1 (db2, skytide)'
  skytide walmgr /etc/skytide/wal.ini synch-standby ''";

#[derive(clap::Args, Debug)]
pub struct NamesArgs {
    /// Whom commits shall wait for
    names: String,
    /// Though they do not stream: commits wait until they do
    #[arg(long)]
    force: bool,
    /// Only check
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// How long the server may take to count them
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = unit::duration)]
    wait: Duration,
}

impl NamesArgs {
    /// `--synch-standby=NAMES`, as it was without a configuration.
    pub fn of(names: &str) -> NamesArgs {
        NamesArgs {
            names: names.to_owned(),
            force: false,
            dry_run: false,
            wait: Duration::from_secs(10),
        }
    }
}

#[derive(Serialize)]
struct Report {
    synchronous_standby_names: String,
    standbys: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    name: String,
    state: String,
    sync_state: String,
    behind_bytes: Option<i64>,
}

pub async fn run(settings: &WalmgrSettings, args: &NamesArgs, context: &Context) -> anyhow::Result<Outcome> {
    on(target(settings)?, &settings.process.job_name, args, context).await
}

pub async fn on(
    server: &ConnectString,
    application_name: &str,
    args: &NamesArgs,
    context: &Context,
) -> anyhow::Result<Outcome> {
    let names: SyncNames = args.names.parse().map_err(|error: server::NamesError| {
        Failure::usage(error.to_string()).hint("For example: a, b; or '*'; or 'ANY 1 (a, b)'; or ''.")
    })?;
    let session = connect(server, application_name).await?;
    let before = server::connected(&session).await?;
    let absent = names.absent(&before);
    let standbys = match args.dry_run {
        true => before,
        false => server::name_them(&session, &names, args.force, args.wait).await?,
    };
    if !absent.is_empty() {
        context.output.warn(&format!(
            "nobody of this name is connected: {}",
            absent.join(", ")
        ));
    }
    let report = Report {
        synchronous_standby_names: names.to_string(),
        standbys: standbys.into_iter().map(row).collect(),
    };
    if context.output.mode() == OutputMode::Json {
        context.output.json(&report)?;
        return Ok(Outcome::Done);
    }
    context.output.rows(
        &["Standby", "State", "Waited for", "Bytes behind"],
        &report.standbys,
        |row| {
            let behind = row.behind_bytes.map(|bytes| bytes.to_string());
            vec![
                row.name.clone(),
                row.state.clone(),
                row.sync_state.clone(),
                behind.unwrap_or_default(),
            ]
        },
    )?;
    if args.dry_run {
        context.output.note("nothing was changed");
    }
    Ok(Outcome::Done)
}

fn row(standby: Connected) -> Row {
    Row {
        name: standby.name,
        state: standby.state,
        sync_state: standby.sync_state,
        behind_bytes: standby.behind_bytes,
    }
}
