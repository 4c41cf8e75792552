//! `purge`: what is no longer needed goes.

use std::time::Duration;

use serde::Serialize;
use skytide_wal::backup::retention::{self, Keep};

use crate::cli::failure::Failure;
use crate::cli::walmgr::store;
use crate::cli::{Context, Outcome};
use crate::config::settings::WalmgrSettings;
use crate::config::unit;

pub const HELP: &str = "\
A backup stays if one of the rules keeps it, or a kept one needs it; so does all WAL that a kept backup may be recovered \
with, on every timeline that leads on from it. The newest backup always stays. While there is no backup, no WAL goes.

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
    dry_run: bool,
}

#[derive(Serialize)]
struct Row {
    store: String,
    what: &'static str,
    name: String,
    bytes: u64,
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
    let mut rows = Vec::new();
    for store in store::open_all(settings)? {
        let purge = retention::plan(&store, keep, !args.no_wal).await?;
        let row = |what, name: String, bytes| Row {
            store: store.location().to_owned(),
            what,
            name,
            bytes,
        };
        rows.extend(
            purge
                .backups
                .iter()
                .map(|b| row("backup", b.label.to_string(), b.stored_bytes)),
        );
        rows.extend(
            purge
                .unfinished
                .iter()
                .map(|label| row("unfinished backup", label.to_string(), 0)),
        );
        if let (Some(first), Some(last)) = (purge.wal.first(), purge.wal.last()) {
            let count = purge.wal.len();
            rows.push(row(
                "WAL",
                format!("{count} files, {first} to {last}"),
                purge.wal_bytes,
            ));
        }
        rows.extend(
            purge
                .partials
                .iter()
                .map(|name| row("partial WAL", name.to_string(), 0)),
        );
        if !args.dry_run {
            retention::carry_out(&*store, &purge).await?;
        }
    }
    let heads = ["Store", "What", "Name", "Size"];
    context.output.rows(&heads, &rows, |row| {
        vec![
            row.store.clone(),
            row.what.to_owned(),
            row.name.clone(),
            unit::show_size(row.bytes),
        ]
    })?;
    if args.dry_run {
        context.output.note("nothing was removed");
    }
    Ok(Outcome::Done)
}
