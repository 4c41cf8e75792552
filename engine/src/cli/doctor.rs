//! `skytide doctor`: what would go wrong, and the fix.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::ValueEnum;
use skytide_sql::conn::ConnectString;

use super::output::OutputMode;
use super::{Context, Outcome};
use crate::config::Overrides;
use crate::config::settings::LondisteSettings;
use crate::doctor::{self, Finding, Role, Verdict};

/// Find what would go wrong, and say the fix
///
/// Looks at the node of a configuration file: its database, and for a leaf its provider and its spool too; or with
/// --db at one database that is to become a node. Changes nothing. Exits with 3 if something is wrong; warnings
/// alone leave with 0.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  skytide doctor leaf.ini\n  \
                        skytide doctor --db 'host=db1 dbname=shop user=postgres' --as root")]
pub struct DoctorArgs {
    /// Configuration file, section [londiste].
    #[arg(required_unless_present = "db", conflicts_with = "db")]
    conf: Option<PathBuf>,
    /// Look at one database instead.
    #[arg(long, value_name = "DSN")]
    db: Option<String>,
    /// What that database shall become; both when not said.
    #[arg(long = "as", value_enum, requires = "db")]
    role: Option<Future>,
    /// Show only what is not well.
    #[arg(long)]
    problems: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Future {
    Root,
    Leaf,
}

pub async fn run(args: DoctorArgs, context: &Context) -> anyhow::Result<Outcome> {
    let mut findings = match (args.conf, args.db) {
        (Some(conf), _) => {
            let settings = LondisteSettings::load(&conf, &Overrides::default())?;
            Box::pin(doctor::node(&settings, conf)).await
        }
        (None, dsn) => {
            let dsn = dsn.unwrap_or_default();
            let dsn = ConnectString::parse_with_environment(&dsn, |name| std::env::var(name).ok())
                .context("read the connect string")?;
            let role = match args.role {
                None => Role::Database,
                Some(Future::Root) => Role::Provider,
                Some(Future::Leaf) => Role::Subscriber,
            };
            Box::pin(doctor::database(dsn, role)).await
        }
    };
    let worst = findings.iter().map(|f| f.verdict).max().unwrap_or(Verdict::Ok);
    let total = findings.len();
    if args.problems {
        findings.retain(|f| f.verdict != Verdict::Ok);
    }
    show(&findings, total, context)?;
    Ok(match worst {
        Verdict::Fail => Outcome::No,
        _ => Outcome::Done,
    })
}

fn show(findings: &[Finding], total: usize, context: &Context) -> anyhow::Result<()> {
    let out = &context.output;
    if out.mode() == OutputMode::Json {
        return out.json(&findings);
    }
    if !findings.is_empty() {
        out.rows(&["", "side", "check", "object", "finding"], findings, |f| {
            vec![
                f.verdict.word().to_owned(),
                f.side.to_owned(),
                f.check.to_owned(),
                f.object.clone(),
                f.finding.clone(),
            ]
        })?;
    }
    let count = |verdict| findings.iter().filter(|f| f.verdict == verdict).count();
    let (failed, warned) = (count(Verdict::Fail), count(Verdict::Warn));
    for finding in findings {
        if let Some(fix) = &finding.fix {
            out.line(format!(
                "\n{}: {} on the {}: {}\n  {fix}",
                finding.verdict.word(),
                finding.object,
                finding.side,
                finding.finding
            ))?;
        }
    }
    out.line(format!(
        "\n{total} checks: {failed} failed, {warned} to be looked at."
    ))
}
