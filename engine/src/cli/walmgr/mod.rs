//! `skytide walmgr CONF COMMAND`: WAL archive and restore, base backups.

mod archive;
mod backup;
pub mod client;
mod daemon;
mod level;
mod receive;
mod reload;
mod restore;
mod salvage;
mod ship;
mod status;
mod store;
mod window;
mod wire;

pub use restore::STOP as STOP_RECOVERY;

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::failure::Failure;
use super::{Context, Outcome};
use crate::config::keys::WALMGR;
use crate::config::pages;
use crate::config::settings::WalmgrSettings;
use crate::daemon::control::DaemonArgs;

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  skytide walmgr wal.ini create-store
  skytide walmgr wal.ini daemon
  skytide walmgr wal.ini receive
  skytide walmgr wal.ini status
  skytide walmgr wal.ini backup
  skytide walmgr wal.ini restore latest /srv/new --time '2026-11-25 18:45:00'
  archive_command = 'skytide walmgr /etc/skytide/wal.ini archive %p %f'
  restore_command = 'skytide walmgr /etc/skytide/wal.ini restore-wal %f %p'")]
pub struct WalmgrArgs {
    /// Configuration file, section [walmgr].
    #[arg(required_unless_present = "ini")]
    pub conf: Option<PathBuf>,
    #[command(flatten)]
    pub daemon: DaemonArgs,
    #[command(subcommand)]
    pub command: Option<WalmgrCommand>,
}

#[derive(Subcommand, Debug)]
pub enum WalmgrCommand {
    /// Make the directories of the stores, and make them this cluster's.
    CreateStore,
    /// Show whose the stores are and what WAL they have.
    Stores,
    /// Check a file of WAL and put it into the stores (archive_command).
    #[command(visible_alias = "xarchive", after_help = archive::HELP)]
    Archive(archive::ArchiveArgs),
    /// Get a file of WAL from the stores (restore_command).
    #[command(visible_alias = "xrestore", after_help = restore::HELP)]
    RestoreWal(restore::RestoreArgs),
    /// Receive the server's WAL into the stores up to the last record, as a (synchronous) standby does.
    #[command(after_help = receive::HELP)]
    Receive,
    /// Copy the server's WAL up to the last record out of its own pg_wal, on its host and without a walsender.
    #[command(visible_alias = "syncdaemon", after_help = ship::HELP)]
    Ship,
    /// Copy a dead server's WAL up to the last record out of its pg_wal, once.
    #[command(after_help = salvage::HELP)]
    Salvage(salvage::SalvageArgs),
    /// Show how far each store is behind the server: what would be lost now.
    #[command(after_help = status::HELP)]
    Status(status::StatusArgs),
    /// Copy the cluster's files into the stores.
    #[command(after_help = backup::take::HELP)]
    Backup(backup::take::BackupArgs),
    /// Show the backups.
    #[command(after_help = backup::list::HELP)]
    Listbackups,
    /// Make a data directory out of a backup, to be recovered up to a point.
    #[command(after_help = backup::restore::HELP)]
    Restore(Box<backup::restore::RestoreBackupArgs>),
    /// Read every piece of the backups and compare checksums.
    #[command(after_help = backup::verify::HELP)]
    Verify(backup::verify::VerifyArgs),
    /// Remove backups and WAL that nothing needs any more.
    #[command(after_help = backup::purge::HELP)]
    Purge(backup::purge::PurgeArgs),
    /// Answer archive and restore-wal at once: archive ahead, fetch ahead.
    Daemon,
}

pub async fn run(args: WalmgrArgs, context: &Context) -> anyhow::Result<Outcome> {
    if args.daemon.ini {
        context.output.line(pages::sample(&WALMGR))?;
        return Ok(Outcome::Done);
    }
    let (Some(conf), Some(command)) = (args.conf, args.command) else {
        return Err(Failure::usage("no command is given")
            .hint("see skytide walmgr --help for the commands")
            .into());
    };
    let load =
        || -> anyhow::Result<WalmgrSettings> { Ok(WalmgrSettings::load(&conf, &args.daemon.overrides()?)?) };
    match command {
        WalmgrCommand::RestoreWal(restore) => restore::run(load, &restore).await,
        WalmgrCommand::Archive(archive) => archive::run(&load()?, &archive).await,
        WalmgrCommand::Backup(args) => Box::pin(backup::take::run(&load()?, &args, context)).await,
        WalmgrCommand::Listbackups => backup::list::run(&load()?, context).await,
        WalmgrCommand::Restore(args) => Box::pin(backup::restore::run(&load()?, &conf, &args, context)).await,
        WalmgrCommand::Verify(args) => Box::pin(backup::verify::run(&load()?, &args, context)).await,
        WalmgrCommand::Purge(args) => Box::pin(backup::purge::run(&load()?, &args, context)).await,
        WalmgrCommand::CreateStore => store::create(&load()?, context).await,
        WalmgrCommand::Stores => store::list(&load()?, context).await,
        WalmgrCommand::Receive => Box::pin(receive::run(&args.daemon, &load, context)).await,
        WalmgrCommand::Ship => Box::pin(ship::run(&args.daemon, &load, context)).await,
        WalmgrCommand::Salvage(salvage) => Box::pin(salvage::run(&load()?, &salvage, context)).await,
        WalmgrCommand::Status(status) => Box::pin(status::run(&load()?, &status, context)).await,
        WalmgrCommand::Daemon => Box::pin(daemon::run(&args.daemon, &load, context)).await,
    }
}
