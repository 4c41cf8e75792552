//! `backup`: a base backup into the stores.

use std::sync::Arc;

use skytide_wal::backup::base::{self, Settings};
use skytide_wal::backup::{BackupError, Kind, Label, Progress, Stores, Summary, list, local};
use skytide_wal::walsender::{Client, Mode};

use super::{shown, stores};
use crate::cli::failure::Failure;
use crate::cli::output::OutputMode;
use crate::cli::walmgr::old::lock;
use crate::cli::{Context, Outcome};
use crate::config::settings::WalmgrSettings;
use crate::config::unit;
use crate::daemon::process;

pub const HELP: &str = "\
The server sends its files over the replication protocol (master_db; the user needs the REPLICATION right). The WAL that \
makes them consistent comes from archive_command: the backup is done when the stores have it.

--local and --incremental read the files where they are instead (master_data): run it on the server's host, as the user \
the server runs as. An incremental reads the archived WAL since its parent began, and then only the blocks that have \
changed. wal_level never may have been minimal since.

Examples:
  skytide walmgr wal.ini backup
  skytide walmgr wal.ini backup --local --jobs 4
  skytide walmgr wal.ini backup --incremental
  skytide walmgr wal.ini backup --spread --max-rate 50MiB";

#[derive(clap::Args, Debug, Default)]
pub struct BackupArgs {
    /// Spread the first checkpoint as the server's settings say, instead of making it at once
    #[arg(long)]
    spread: bool,
    /// What the server may send a second, 32KiB to 1GiB
    #[arg(long, value_name = "SIZE", value_parser = unit::size)]
    max_rate: Option<u64>,
    /// Read the files in master_data, several at a time
    #[arg(long, conflicts_with = "max_rate")]
    local: bool,
    /// Only the blocks that have changed since the newest backup
    #[arg(long, conflicts_with = "max_rate")]
    incremental: bool,
    /// The backup an incremental is made on [default: the newest]
    #[arg(long, value_name = "BACKUP", requires = "incremental",
          value_parser = |text: &str| text.parse::<Label>().map_err(|e| e.to_string()))]
    parent: Option<Label>,
    /// Objects compressed and written at the same time; each takes 32 MiB of memory [default: backup_jobs]
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
    /// Copy pages with a wrong checksum as they are, and note them
    #[arg(long)]
    accept_damage: bool,
}

pub async fn run(settings: &WalmgrSettings, args: &BackupArgs, context: &Context) -> anyhow::Result<Outcome> {
    let _reloads = process::arm(context.shutdown.clone(), context.log.clone())?;
    let summary = take(settings, args, context).await?;
    match context.output.mode() {
        OutputMode::Json => context.output.json(&summary)?,
        OutputMode::Table => context.output.line(words(&summary))?,
    }
    Ok(Outcome::Done)
}

/// A full backup, over the protocol.
pub async fn first(settings: &WalmgrSettings, context: &Context) -> anyhow::Result<Summary> {
    take(settings, &BackupArgs::default(), context).await
}

async fn take(settings: &WalmgrSettings, args: &BackupArgs, context: &Context) -> anyhow::Result<Summary> {
    lock::check(settings)?;
    let target = settings.server.as_ref().ok_or_else(|| {
        Failure::usage("master_db is not set")
            .hint("Name the server in the configuration: master_db = host=127.0.0.1 user=replicator")
    })?;
    let max_rate = match args.max_rate.or(settings.backup_max_rate) {
        None => None,
        Some(bytes) => match u32::try_from(bytes / 1024) {
            Ok(kib) if (32..=1 << 20).contains(&kib) => Some(kib),
            _ => return Err(Failure::usage("the server takes rates from 32KiB to 1GiB a second").into()),
        },
    };
    let backup = Settings {
        fast_checkpoint: !args.spread,
        max_rate,
        accept_damage: args.accept_damage,
        level: settings.compression_level,
        jobs: args.jobs.unwrap_or(settings.backup_jobs),
        wal_timeout: settings.backup_wal_timeout,
    };
    let stores = Arc::new(stores(settings)?);
    let progress = Arc::new(Progress::default());
    let stop = context.shutdown.cancelled();
    let summary = match args.local || args.incremental {
        true => {
            let local = of_files(settings, args, &stores, &backup).await?;
            let work = local::take(target, stores.clone(), &local, &progress, stop);
            shown(context, &progress, work).await?
        }
        false => {
            let work = async {
                let client = Client::connect(target, Mode::Physical, "skytide walmgr").await?;
                base::take(client, stores.clone(), &backup, &progress, stop).await
            };
            shown(context, &progress, work).await?
        }
    };
    for (_, error) in stores.left_out() {
        context
            .output
            .warn(&format!("the backup is not in every store: {error}"));
    }
    if summary.damaged_pages > 0 {
        let pages = summary.damaged_pages;
        context.output.warn(&format!(
            "{pages} pages with a wrong checksum were copied as they are"
        ));
    }
    Ok(summary)
}

/// Settings of a backup that reads the files itself.
async fn of_files(
    settings: &WalmgrSettings,
    args: &BackupArgs,
    stores: &Stores,
    backup: &Settings,
) -> anyhow::Result<local::Settings> {
    let data_dir = settings.data_dir.clone().ok_or_else(|| {
        Failure::usage("master_data is not set").hint("--local and --incremental read the files there.")
    })?;
    let parent = match (&args.parent, args.incremental) {
        (Some(label), _) => Some(label.clone()),
        (None, false) => None,
        (None, true) => {
            let newest = list(stores).await?.into_iter().filter_map(Result::ok).last();
            Some(newest.ok_or(BackupError::NoBackups)?.label)
        }
    };
    Ok(local::Settings {
        data_dir,
        parent,
        fast_checkpoint: backup.fast_checkpoint,
        accept_damage: backup.accept_damage,
        level: backup.level,
        jobs: backup.jobs,
        wal_timeout: backup.wal_timeout,
    })
}

pub fn words(summary: &Summary) -> String {
    let read = match summary.kind {
        Kind::Full => String::new(),
        Kind::Incremental => format!(", {} read", unit::show_size(summary.read_bytes)),
    };
    format!(
        "backup {}: {} files, {}{read}, stored in {}; WAL {} to {} on timeline {}",
        summary.label,
        summary.files,
        unit::show_size(summary.bytes),
        unit::show_size(summary.stored_bytes),
        summary.start_lsn,
        summary.stop_lsn,
        summary.timeline
    )
}
