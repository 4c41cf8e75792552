//! `purge`: what is no longer needed goes.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use skytide_wal::backup::Summary;
use skytide_wal::backup::retention::{self, Holds, Keep, Purge};

use crate::causes;
use crate::cli::failure::Failure;
use crate::cli::walmgr::old::lock;
use crate::cli::walmgr::{line, store};
use crate::cli::{Context, Outcome};
use crate::config::settings::{StoreAt, WalmgrSettings};
use crate::config::unit;

pub const HELP: &str = "\
A backup stays if one of the rules keeps it, or a kept one needs it; so does all WAL that a kept backup may be recovered \
with, on every timeline that leads on from it. The newest backup always stays. While there is no backup, no WAL goes, nor \
while a backup is taken, nor while a store cannot be asked: it may lack what the others have. Backups go from those that \
answer, and the exit code is 1.

Examples:
  skytide walmgr wal.ini purge --keep 2 --dry-run
  skytide walmgr wal.ini purge --keep-for 14d";

#[derive(clap::Args, Debug)]
pub struct PurgeArgs {
    /// Keep so many of the newest full backups [default: keep_backups]
    #[arg(long, value_name = "N")]
    keep: Option<usize>,
    /// Keep what a restore to any moment within this time needs [default: keep_backups_for]
    #[arg(long, value_name = "TIME", value_parser = unit::duration)]
    keep_for: Option<Duration>,
    /// Leave WAL alone
    #[arg(long)]
    no_wal: bool,
    /// Only say what would go
    #[arg(short = 'n', long)]
    pub dry_run: bool,
}

/// Something that goes from a store.
#[derive(Serialize)]
pub struct Row {
    store: String,
    what: &'static str,
    name: String,
    bytes: u64,
}

impl Row {
    pub fn new(store: &str, what: &'static str, name: String, bytes: u64) -> Row {
        Row {
            store: store.to_owned(),
            what,
            name,
            bytes,
        }
    }

    pub fn of(store: &str, purge: &Purge) -> Vec<Row> {
        let row = |what, name, bytes| Row::new(store, what, name, bytes);
        let backups = purge.backups.iter();
        let mut rows: Vec<Row> = backups
            .map(|b| row("backup", b.label.to_string(), b.stored_bytes))
            .collect();
        let unfinished = purge.unfinished.iter();
        rows.extend(unfinished.map(|label| row("unfinished backup", label.to_string(), 0)));
        if let (Some(first), Some(last)) = (purge.wal.first(), purge.wal.last()) {
            let count = purge.wal.len();
            let name = format!("{count} files, {first} to {last}");
            rows.push(row("WAL", name, purge.wal_bytes));
        }
        let partials = purge.partials.iter();
        rows.extend(partials.map(|name| row("partial WAL", name.to_string(), 0)));
        rows
    }
}

pub fn show(rows: &[Row], dry_run: bool, context: &Context) -> anyhow::Result<Outcome> {
    let heads = ["Store", "What", "Name", "Size"];
    context.output.rows(&heads, rows, |row| {
        vec![
            row.store.clone(),
            row.what.to_owned(),
            row.name.clone(),
            unit::show_size(row.bytes),
        ]
    })?;
    if dry_run {
        context.output.note("nothing was removed");
    }
    Ok(Outcome::Done)
}

pub async fn run(settings: &WalmgrSettings, args: &PurgeArgs, context: &Context) -> anyhow::Result<Outcome> {
    let keep = Keep {
        full: args.keep.or(settings.keep_backups).filter(|count| *count > 0),
        age: args.keep_for.or(settings.keep_backups_for),
    };
    if keep == Keep::default() {
        return Err(Failure::usage("it is not said what has to stay")
            .hint("Set keep_backups or keep_backups_for, or give --keep or --keep-for.")
            .into());
    }
    let which = match args.no_wal {
        true => Which::Backups,
        false => Which::All,
    };
    carry_out(settings, keep, which, args.dry_run, context).await
}

/// What is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    All,
    Backups,
    Wal,
}

pub async fn carry_out(
    settings: &WalmgrSettings,
    keep: Keep,
    which: Which,
    dry_run: bool,
    context: &Context,
) -> anyhow::Result<Outcome> {
    lock::check(settings)?;
    let stores = store::open_all(settings)?;
    let mut plan = retention::plan(&stores, keep, which != Which::Backups).await?;
    for error in &plan.silent {
        context
            .output
            .warn(&format!("left out: {}", causes::chain(error)));
    }
    if plan.of.is_empty()
        && let Some(error) = plan.silent.pop()
    {
        return Err(error.into());
    }
    if let Some(holds) = &plan.holds {
        context.output.warn(&words(holds));
    }
    if which == Which::Wal {
        plan.of.iter_mut().for_each(|(_, purge)| purge.unfinished.clear());
    }
    let rows: Vec<Row> = plan
        .of
        .iter()
        .flat_map(|(store, purge)| Row::of(store.location(), purge))
        .collect();
    if !dry_run {
        for (store, purge) in &plan.of {
            let mut places = settings.stores.iter().zip(&stores);
            if let Some((at, _)) = places.find(|(_, other)| Arc::ptr_eq(store, other)) {
                ask(settings, at, &purge.backups).await?;
            }
        }
        retention::carry_out(&plan).await?;
    }
    let shown = show(&rows, dry_run, context)?;
    match plan.silent.is_empty() {
        true => Ok(shown),
        false => Ok(Outcome::Code(1)),
    }
}

fn words(holds: &Holds) -> String {
    match holds {
        Holds::Silent { location } => format!(
            "no WAL goes while store {location} cannot be asked: it may lack what the others have. If it is lost, take it \
             out of stores."
        ),
        Holds::UnderWay { label, location } => format!(
            "no WAL goes while a backup is taken: {label} in store {location} was begun and has not ended"
        ),
        Holds::NoWay => "no WAL goes while no backup leads to the newest timeline".to_owned(),
    }
}

/// The configuration's command hears of each backup before it goes; if it fails, none goes.
async fn ask(settings: &WalmgrSettings, at: &StoreAt, backups: &[Summary]) -> anyhow::Result<()> {
    let (Some(command), StoreAt::Dir(dir)) = (&settings.commands.before_purge, at) else {
        return Ok(());
    };
    for backup in backups {
        let dir = dir.join("backup").join(backup.label.as_str());
        line::shell("archive_command", command, &[("BACKUPDIR", &dir)]).await?;
    }
    Ok(())
}
