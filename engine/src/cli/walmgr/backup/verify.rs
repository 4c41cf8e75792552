//! `verify`: are the backups what was put there?

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use skytide_wal::backup::verify::{Settings, verify};
use skytide_wal::backup::{Label, Progress};

use super::{readable, shown};
use crate::cli::output::OutputMode;
use crate::cli::{Context, Outcome};
use crate::config::settings::WalmgrSettings;
use crate::config::unit;

pub const HELP: &str = "\
Reads manifests and every piece in every store and compares checksums; reads the WAL that the backups need to be \
consistent, and with --wal all that is archived, and checks every record. Exit code 3: something is damaged or missing, \
or a store does not answer; it is named.

Examples:
  skytide walmgr wal.ini verify
  skytide walmgr wal.ini verify --unless-within 30d --max-rate 20MiB
  skytide walmgr wal.ini verify --wal
  skytide walmgr wal.ini verify 20261125T184500F";

#[derive(clap::Args, Debug)]
pub struct VerifyArgs {
    /// Only these backups
    #[arg(value_name = "BACKUP", value_parser = |text: &str| text.parse::<Label>().map_err(|e| e.to_string()))]
    backups: Vec<Label>,
    /// Leave out what was found sound within this time
    #[arg(long, value_name = "TIME", value_parser = unit::duration)]
    unless_within: Option<Duration>,
    /// What may be read a second
    #[arg(long, value_name = "SIZE", value_parser = unit::size)]
    max_rate: Option<u64>,
    /// Read all archived WAL, too
    #[arg(long)]
    wal: bool,
}

#[derive(Serialize)]
struct Shown {
    backups: u64,
    objects: u64,
    wal_files: u64,
    bytes: u64,
    left_out: u64,
    problems: Vec<Line>,
}

#[derive(Serialize)]
struct Line {
    store: String,
    name: String,
    what: String,
}

pub async fn run(settings: &WalmgrSettings, args: &VerifyArgs, context: &Context) -> anyhow::Result<Outcome> {
    let stores = readable(settings, context).await?;
    let wanted = Settings {
        labels: args.backups.clone(),
        unless_within: args.unless_within,
        max_rate: args.max_rate,
        all_wal: args.wal,
    };
    let progress = Arc::new(Progress::default());
    let report = shown(context, &progress, verify(&stores, &wanted, &progress)).await?;
    let problems: Vec<Line> = report
        .problems
        .into_iter()
        .map(|problem| Line {
            store: problem.store,
            name: problem.name,
            what: problem.what,
        })
        .collect();
    let outcome = match problems.is_empty() {
        true => Outcome::Done,
        false => Outcome::No,
    };
    let shown = Shown {
        backups: report.backups,
        objects: report.objects,
        wal_files: report.wal_files,
        bytes: report.bytes,
        left_out: report.left_out,
        problems,
    };
    if context.output.mode() == OutputMode::Json {
        context.output.json(&shown)?;
        return Ok(outcome);
    }
    for line in &shown.problems {
        context
            .output
            .line(format!("{}: {}: {}", line.store, line.name, line.what))?;
    }
    context.output.line(format!(
        "{} backups, {} objects, {} files of WAL, {} read, {} left out, {} problems",
        shown.backups,
        shown.objects,
        shown.wal_files,
        unit::show_size(shown.bytes),
        shown.left_out,
        shown.problems.len()
    ))?;
    Ok(outcome)
}
