//! `skytide walmgr CONF COMMAND`: WAL archive and restore, base backups.

mod archive;
mod backup;
pub mod client;
mod daemon;
mod level;
mod line;
mod old;
mod primary;
mod receive;
mod reload;
mod restore;
mod salvage;
mod ship;
mod standby;
mod status;
mod store;
mod sync;
mod window;
mod wire;

pub use line::restore_command;
pub use restore::STOP as STOP_RECOVERY;
pub use status::moment;
pub use store::open_all;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use skytide_sql::conn::ConnectString;
use tracing::subscriber::{NoSubscriber, with_default};

use self::old::init::InitArgs;

use super::failure::Failure;
use super::{Context, Outcome, promote};
use crate::config::keys::WALMGR;
use crate::config::pages;
use crate::config::settings::WalmgrSettings;
use crate::daemon::control::DaemonArgs;

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  skytide walmgr wal.ini setup --backup
  skytide walmgr wal.ini daemon
  skytide walmgr wal.ini receive
  skytide walmgr wal.ini status
  skytide walmgr wal.ini backup
  skytide walmgr wal.ini restore latest /srv/new --time '2026-11-25 18:45:00'
  skytide walmgr wal-slave.ini createslave --start
  archive_command = 'skytide walmgr /etc/skytide/wal.ini archive %p %f'
  restore_command = 'skytide walmgr /etc/skytide/wal.ini restore-wal %f %p'")]
pub struct WalmgrArgs {
    /// Configuration file, section [walmgr].
    #[arg(required_unless_present_any = ["ini", "init_master", "init_slave", "synch_standby"])]
    pub conf: Option<PathBuf>,
    #[command(flatten)]
    pub daemon: DaemonArgs,
    #[command(flatten)]
    pub init: InitArgs,
    /// Only say what COMMAND would do, as its own --dry-run
    #[arg(short = 'n', long)]
    pub not_really: bool,
    #[command(subcommand)]
    pub command: Option<WalmgrCommand>,
}

#[derive(Subcommand, Debug)]
pub enum WalmgrCommand {
    /// Let a server archive into the stores: settings, stores, a proof.
    #[command(after_help = primary::setup::HELP)]
    Setup(primary::setup::SetupArgs),
    /// Let a server archive no more.
    #[command(after_help = primary::stop::HELP)]
    Stop(primary::stop::StopArgs),
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
    /// Copy what the stores lack, once, whether the server runs or not.
    #[command(after_help = sync::HELP)]
    Sync,
    /// End a segment that nobody else ends, for a timer to call.
    #[command(after_help = primary::periodic::HELP)]
    Periodic,
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
    /// Remove a timeline that is given up from the stores.
    #[command(after_help = backup::drop::HELP)]
    DropTimeline(backup::drop::DropArgs),
    /// Make a standby out of the stores, that follows its primary.
    #[command(after_help = standby::create::HELP)]
    Createslave(standby::create::CreateArgs),
    /// Hold a standby's replay.
    #[command(after_help = standby::pause::PAUSE_HELP)]
    Pause(standby::pause::PauseArgs),
    /// Let a standby's replay go on.
    #[command(after_help = standby::pause::CONTINUE_HELP)]
    Continue(standby::pause::PauseArgs),
    /// Let the standby on this host take over.
    #[command(after_help = standby::boot::HELP)]
    Boot(standby::boot::BootArgs),
    /// Say which standbys commits wait for, if they are there.
    #[command(after_help = primary::sync_names::HELP)]
    SynchStandby(primary::sync_names::NamesArgs),
    /// Remove this host's stores and the configuration.
    #[command(after_help = old::cleanup::HELP)]
    Cleanup(old::cleanup::CleanupArgs),
    /// Make a standby the primary, as skytide promote.
    Promote(promote::PromoteWish),
    /// Answer archive and restore-wal at once: archive ahead, fetch ahead.
    Daemon,
    /// Put bytes of a segment from standard input behind what the stores have.
    #[command(hide = true)]
    Xpartialsync(old::internal::PartialArgs),
    /// Keep backups and purges out while this process lives.
    #[command(hide = true)]
    Xlock { pid: i32 },
    /// Let them in again.
    #[command(hide = true)]
    Xrelease,
    /// Remove backups that keep_backups does not keep.
    #[command(hide = true)]
    Xrotate,
    /// Remove WAL that no backup leads to.
    #[command(hide = true)]
    Xpurgewals,
}

impl WalmgrCommand {
    /// `--not-really`; false if the command has no such thing.
    fn only_say(&mut self) -> bool {
        let dry_run = match self {
            WalmgrCommand::Setup(args) => &mut args.dry_run,
            WalmgrCommand::SynchStandby(args) => &mut args.dry_run,
            WalmgrCommand::Restore(args) => &mut args.dry_run,
            WalmgrCommand::Purge(args) => &mut args.dry_run,
            WalmgrCommand::DropTimeline(args) => &mut args.dry_run,
            WalmgrCommand::Createslave(args) => &mut args.dry_run,
            WalmgrCommand::Cleanup(args) => &mut args.dry_run,
            _ => return false,
        };
        *dry_run = true;
        true
    }

    /// PostgreSQL starts it for every file: what is odd about the configuration would fill its log.
    fn is_servers(&self) -> bool {
        matches!(self, WalmgrCommand::Archive(_) | WalmgrCommand::RestoreWal(_))
    }
}

pub async fn run(args: WalmgrArgs, context: &Context) -> anyhow::Result<Outcome> {
    if args.daemon.ini {
        context.output.line(pages::sample(&WALMGR))?;
        return Ok(Outcome::Done);
    }
    let overrides = args.daemon.overrides()?;
    if args.init.is_given() {
        return old::init::run(&args.init, &overrides, context);
    }
    if let Some(names) = &args.init.synch_standby {
        let variable = |name: &str| std::env::var(name).ok();
        let server = ConnectString::parse_with_environment("", variable)?;
        let names = primary::sync_names::NamesArgs::of(names);
        return Box::pin(primary::sync_names::on(&server, "walmgr", &names, context)).await;
    }
    let (Some(conf), Some(mut command)) = (args.conf, args.command) else {
        return Err(Failure::usage("no command is given")
            .hint("see skytide walmgr --help for the commands")
            .into());
    };
    if args.not_really && !command.only_say() {
        return Err(Failure::usage("this command cannot only say what it would do").into());
    }
    let servers = command.is_servers();
    let load = || -> anyhow::Result<WalmgrSettings> {
        let load = || WalmgrSettings::load(&conf, &overrides);
        Ok(match servers {
            true => with_default(NoSubscriber::new(), load)?,
            false => load()?,
        })
    };
    match command {
        WalmgrCommand::RestoreWal(restore) => restore::run(load, &restore).await,
        WalmgrCommand::Archive(archive) => archive::run(&load()?, &archive).await,
        WalmgrCommand::Backup(args) => Box::pin(backup::take::run(&load()?, &args, context)).await,
        WalmgrCommand::Listbackups => backup::list::run(&load()?, context).await,
        WalmgrCommand::Restore(args) => Box::pin(backup::restore::run(&load()?, &conf, &args, context)).await,
        WalmgrCommand::Verify(args) => Box::pin(backup::verify::run(&load()?, &args, context)).await,
        WalmgrCommand::Purge(args) => Box::pin(backup::purge::run(&load()?, &args, context)).await,
        WalmgrCommand::DropTimeline(args) => Box::pin(backup::drop::run(&load()?, &args, context)).await,
        WalmgrCommand::Setup(args) => Box::pin(primary::setup::run(&load()?, &conf, &args, context)).await,
        WalmgrCommand::Stop(args) => Box::pin(primary::stop::run(&load()?, &args, context)).await,
        WalmgrCommand::Sync => Box::pin(sync::run(&load()?, context)).await,
        WalmgrCommand::Periodic => Box::pin(primary::periodic::run(&load()?, &conf, context)).await,
        WalmgrCommand::SynchStandby(args) => {
            Box::pin(primary::sync_names::run(&load()?, &args, context)).await
        }
        WalmgrCommand::Createslave(args) => {
            Box::pin(standby::create::run(&load()?, &conf, &args, context)).await
        }
        WalmgrCommand::Pause(args) => {
            Box::pin(standby::pause::run(
                &load()?,
                standby::pause::Which::Pause,
                &args,
                context,
            ))
            .await
        }
        WalmgrCommand::Continue(args) => {
            Box::pin(standby::pause::run(
                &load()?,
                standby::pause::Which::Continue,
                &args,
                context,
            ))
            .await
        }
        WalmgrCommand::Boot(args) => Box::pin(standby::boot::run(&load()?, &args, context)).await,
        WalmgrCommand::Cleanup(args) => Box::pin(old::cleanup::run(&load()?, &conf, &args, context)).await,
        WalmgrCommand::Xpartialsync(args) => Box::pin(old::internal::partial(&load()?, &args)).await,
        WalmgrCommand::Xlock { pid } => old::lock::take(&load()?, pid, context),
        WalmgrCommand::Xrelease => old::lock::release(&load()?),
        WalmgrCommand::Xrotate => Box::pin(old::internal::rotate(&load()?, context)).await,
        WalmgrCommand::Xpurgewals => Box::pin(old::internal::purge_wal(&load()?, context)).await,
        WalmgrCommand::CreateStore => store::create(&load()?, context).await,
        WalmgrCommand::Stores => store::list(&load()?, context).await,
        WalmgrCommand::Receive => Box::pin(receive::run(&args.daemon, &load, context)).await,
        WalmgrCommand::Ship => Box::pin(ship::run(&args.daemon, &load, context)).await,
        WalmgrCommand::Salvage(salvage) => Box::pin(salvage::run(&load()?, &salvage, context)).await,
        WalmgrCommand::Status(status) => Box::pin(status::run(&load()?, &status, context)).await,
        WalmgrCommand::Promote(wish) => Box::pin(promote::carry_out(&conf, &wish, context)).await,
        WalmgrCommand::Daemon => Box::pin(daemon::run(&args.daemon, &load, context)).await,
    }
}
