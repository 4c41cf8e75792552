//! `skytide install`: put the SQL modules into a database.

use std::time::Duration;

use anyhow::Context as _;
use serde::Serialize;
use skytide_sql::conn::{self, ConnectString};
use skytide_sql::install::{self, CTriggers, Options, Plan, VERSION};

use super::output::OutputMode;
use super::{Context, Outcome};

/// Put the SQL modules into a database, or upgrade them
///
/// Schemas pgq, pgq_coop, pgq_ext, pgq_node and londiste, their functions, roles and grants, all in one
/// transaction, verified at its end. A second run changes nothing. The user must own the database, and be allowed to create
/// roles unless pgq_reader, pgq_writer, pgq_admin, londiste_reader and londiste_writer exist. Replicating
/// into the database needs a superuser as the owner of the functions, or from PostgreSQL 15 on:
/// grant set on parameter session_replication_role.
///
/// Schemas that PgQ or Londiste made, 3.x by extensions or scripts or 2.1, are adopted in place: queues,
/// consumers, positions and open batches, events, retries, nodes and tables stay. Extensions become plain
/// schemas. Producers wait meanwhile and lose nothing; consumers and tickers may go on running. The user must
/// own the extensions and what is in them.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Examples:\n  skytide install 'host=db1 dbname=shop user=postgres'\n  \
                        skytide install postgres:///shop --dry-run"
)]
pub struct InstallArgs {
    /// Connect string: key=value pairs or a URL; what it lacks comes from the PG* environment.
    #[arg(value_name = "DSN")]
    dsn: String,
    /// Say what would be done, change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Capture triggers go on calling the C functions of the extension, which need its library.
    #[arg(long)]
    keep_c_triggers: bool,
    /// Replace C functions that were kept when the schema was adopted.
    #[arg(long, conflicts_with = "keep_c_triggers")]
    replace_c_triggers: bool,
    /// Adopting: how long to try for the locks.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    lock_timeout: u64,
}

impl InstallArgs {
    fn options(&self) -> Options {
        Options {
            c_triggers: match (self.keep_c_triggers, self.replace_c_triggers) {
                (true, _) => CTriggers::Keep,
                (false, true) => CTriggers::Replace,
                (false, false) => CTriggers::AsTheyAre,
            },
            lock_timeout: Duration::from_secs(self.lock_timeout),
        }
    }
}

#[derive(Serialize)]
struct Line {
    module: &'static str,
    before: Option<String>,
    after: &'static str,
    action: &'static str,
    /// What adopting a schema does, in words.
    steps: Vec<String>,
}

pub async fn run(args: InstallArgs, context: &Context) -> anyhow::Result<Outcome> {
    let target = ConnectString::parse_with_environment(&args.dsn, |name| std::env::var(name).ok())
        .context("read the connect string")?;
    let mut session = conn::connect(&target, "skytide install")
        .await
        .context("connect")?;
    let options = args.options();
    let plan = if args.dry_run {
        install::plan_with(&*session, &options).await
    } else {
        install::install_with(&mut session, &options).await
    }
    .context("install the SQL modules")?;

    context
        .output
        .rows(&["module", "was", "is", "action"], &lines(&plan), |line| {
            vec![
                line.module.into(),
                line.before.clone().unwrap_or_else(|| "-".into()),
                line.after.into(),
                line.action.into(),
            ]
        })?;
    if context.output.mode() == OutputMode::Table {
        for entry in &plan.modules {
            for step in &entry.steps {
                context.output.line(format!("{}: {step}", entry.module))?;
            }
        }
        context
            .output
            .line(match (plan.changes_nothing(), args.dry_run) {
                (true, _) => "Nothing to do.",
                (false, true) => "Dry run: nothing was changed.",
                (false, false) => "Done, and verified.",
            })?;
    }
    Ok(Outcome::Done)
}

fn lines(plan: &Plan) -> Vec<Line> {
    plan.modules
        .iter()
        .map(|entry| Line {
            module: entry.module.schema(),
            before: entry.installed.clone(),
            after: VERSION,
            action: entry.action.word(),
            steps: entry.steps.clone(),
        })
        .collect()
}
