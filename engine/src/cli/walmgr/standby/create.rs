//! `createslave`: a standby out of the stores, that follows its primary.
//!
//! The slot comes first, so that the primary keeps WAL from before the backup's end; the backup is one that is there, or
//! a new one; the files are restored and the server told what to follow. If that does not come to its end, a slot that was
//! made for it goes again: it would fill the primary's disk.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde::Serialize;
use skytide_sql::conn::{ConnectString, connect};
use skytide_sql::{Lsn, SlotName};
use skytide_wal::backup::list;
use skytide_wal::backup::restore::MARKER;
use skytide_wal::control::{self, ControlFile};
use skytide_wal::server::{self, Postmaster, ServerError};
use skytide_wal::walsender::{Client, Mode, SlotLifetime, WalReservation, WalsenderError};

use super::{data_dir, target};
use crate::cli::failure::Failure;
use crate::cli::output::OutputMode;
use crate::cli::walmgr::backup::restore::{RestoreBackupArgs, Restored};
use crate::cli::walmgr::{backup, line};
use crate::cli::{Context, Outcome};
use crate::config::settings::{Role, WalmgrSettings};
use crate::config::unit;

pub const HELP: &str = "\
Restores the newest backup of the stores into slave_data, as a standby that streams from the primary (primary_conninfo) \
and gets from the stores what the primary has no more. Without a backup there, it takes one. On the primary it makes the \
slot primary_slot_name. The standby's application_name is the job's name; synch-standby knows it by that.

Run it as the user the server will run as. A password belongs into that user's ~/.pgpass and is refused in primary_conninfo, \
which the server shows to whoever may read settings. A standby that is there already is left as it is.

Examples:
  skytide walmgr /etc/skytide/wal-slave.ini createslave
  skytide walmgr /etc/skytide/wal-slave.ini createslave --fresh --start";

/// duplicate_object
const EXISTS: &str = "42710";

#[derive(clap::Args, Debug)]
pub struct CreateArgs {
    /// Take a new backup, though there is one
    #[arg(long)]
    fresh: bool,
    /// Start it (slave_start_cmd), and wait until it replays
    #[arg(long)]
    start: bool,
    /// Put a tablespace elsewhere; for each
    #[arg(long, value_name = "OLD=NEW", value_parser = backup::restore::mapping)]
    tablespace: Vec<(PathBuf, PathBuf)>,
    /// How long the started server may take
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = unit::duration)]
    wait: Duration,
    /// Only say what would be done
    #[arg(short = 'n', long)]
    pub dry_run: bool,
}

#[derive(Serialize)]
struct Report {
    /// It was a standby before.
    already: bool,
    slot: Option<String>,
    restored: Option<Restored>,
    started: bool,
    replay_lsn: Option<String>,
}

pub async fn run(
    settings: &WalmgrSettings,
    conf: &Path,
    args: &CreateArgs,
    context: &Context,
) -> anyhow::Result<Outcome> {
    if settings.role != Role::Standby && settings.data_dir.is_some() {
        return Err(
            Failure::usage("createslave makes a directory of its own, and only master_data is set")
                .hint("Set slave_data to where the standby's is to be, in a configuration of its own.")
                .into(),
        );
    }
    let dir = std::path::absolute(data_dir(settings)?).context("find the data directory")?;
    let primary = settings.server.as_ref().ok_or_else(|| {
        Failure::usage("it is not said which primary to follow")
            .hint("Set primary_conninfo = host=db1 user=replicator")
    })?;
    if primary.without_password().to_libpq() != primary.to_libpq() {
        return Err(Failure::usage("primary_conninfo holds a password")
            .detail("The server would show it to whoever may read settings.")
            .hint("Put it into ~/.pgpass of the server's user, mode 0600: host:port:*:user:password, and take it out here.")
            .into());
    }
    if args.start && settings.commands.start_standby.is_none() {
        return Err(Failure::usage("slave_start_cmd is not set")
            .hint("For example: slave_start_cmd = systemctl start postgresql@17-main")
            .into());
    }
    let mut report = Report {
        already: false,
        slot: None,
        restored: None,
        started: false,
        replay_lsn: None,
    };
    let mut client = Client::connect(primary, Mode::Physical, &settings.process.job_name).await?;
    let system_id = client.identify_system().await?.system_id;
    match Before::look(&dir, system_id)? {
        Before::Standby => report.already = true,
        Before::Unfinished | Before::Nothing if args.dry_run && no_backup(settings, context).await? => {
            context.output.note("there is no backup yet: one would be taken");
            return Ok(Outcome::Done);
        }
        before => {
            let slot = Slot::make(settings, &mut client, args.dry_run).await?;
            report.slot = settings.standby_slot.as_ref().map(ToString::to_string);
            let restored = restore(settings, conf, &dir, primary, args, before, context).await;
            match restored {
                Ok(restored) => report.restored = Some(restored),
                Err(error) => {
                    slot.give_up(&mut client).await;
                    return Err(error);
                }
            }
        }
    }
    if let (true, false, Some(command)) = (args.start, args.dry_run, &settings.commands.start_standby) {
        if Postmaster::find(&dir)?.is_none() {
            line::shell("slave_start_cmd", command, &[]).await?;
        }
        report.replay_lsn = Some(replays(settings, &dir, args.wait).await?.to_string());
        report.started = true;
    }
    say(&report, &dir, args, context)
}

async fn no_backup(settings: &WalmgrSettings, context: &Context) -> anyhow::Result<bool> {
    let stores = backup::readable(settings, context).await?;
    Ok(!list(&stores).await?.iter().any(Result::is_ok))
}

/// What is in the directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Before {
    Nothing,
    /// A restore that was broken off.
    Unfinished,
    /// A standby of this cluster.
    Standby,
}

impl Before {
    fn look(dir: &Path, system_id: u64) -> anyhow::Result<Before> {
        if dir.join(MARKER).exists() {
            return Ok(Before::Unfinished);
        }
        let entries = match std::fs::read_dir(dir) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Before::Nothing),
            entries => entries.with_context(|| format!("look into {}", dir.display()))?,
        };
        if entries.count() == 0 {
            return Ok(Before::Nothing);
        }
        let control = std::fs::read(dir.join(control::PATH)).ok();
        let control = control.and_then(|bytes| ControlFile::parse(&bytes).ok());
        let refused = |what: &str, hint: &str| {
            Err(Failure::new(format!("{} {what}", dir.display()))
                .hint(hint)
                .into())
        };
        match control {
            None => refused(
                "is not empty and no data directory",
                "Name an empty directory, or one that is not there yet, in slave_data.",
            ),
            Some(control) if control.system_id != system_id => refused(
                "is another cluster's data directory",
                "Name an empty directory, or one that is not there yet, in slave_data.",
            ),
            Some(_) if dir.join("standby.signal").exists() => Ok(Before::Standby),
            Some(_) => refused(
                "is a data directory, and no standby's",
                "If it may go: skytide walmgr CONF restore latest --delta --standby uses what is there; or move it away.",
            ),
        }
    }
}

/// The standby's slot on the primary.
struct Slot {
    /// It was made just now.
    made: Option<SlotName>,
}

impl Slot {
    async fn make(settings: &WalmgrSettings, client: &mut Client, dry_run: bool) -> anyhow::Result<Slot> {
        let Some(slot) = settings.standby_slot.clone().filter(|_| !dry_run) else {
            return Ok(Slot { made: None });
        };
        let made = client
            .create_physical_slot(&slot, SlotLifetime::Permanent, WalReservation::Now)
            .await;
        match made {
            Ok(_) => Ok(Slot { made: Some(slot) }),
            Err(error) if error.server_error().is_some_and(|error| error.code == EXISTS) => {
                Ok(Slot { made: None })
            }
            Err(error) => {
                let error: WalsenderError = error;
                Err(anyhow::Error::new(error).context(format!("make slot {slot} on the primary")))
            }
        }
    }

    async fn give_up(&self, client: &mut Client) {
        if let Some(slot) = &self.made
            && let Err(error) = client.drop_slot(slot).await
        {
            let error: &dyn std::error::Error = &error;
            tracing::warn!(%slot, error, "the slot on the primary could not be dropped: do that, it holds WAL");
        }
    }
}

async fn restore(
    settings: &WalmgrSettings,
    conf: &Path,
    dir: &Path,
    primary: &ConnectString,
    args: &CreateArgs,
    before: Before,
    context: &Context,
) -> anyhow::Result<Restored> {
    if args.fresh || no_backup(settings, context).await? {
        let taken = backup::take::first(settings, context).await?;
        context.output.note(&backup::take::words(&taken));
    }
    let named = match primary.application_name() {
        Some(_) => primary.clone(),
        None => primary.with(&[("application_name", &settings.process.job_name)])?,
    };
    let slot = settings.standby_slot.clone();
    let restore = RestoreBackupArgs::standby(dir, named.to_libpq(), slot, args.tablespace.clone())
        .delta(before == Before::Unfinished)
        .dry_run(args.dry_run);
    backup::restore::restore(settings, conf, &restore, context).await
}

/// Until the server lets us in and replays, or says by its pid file that it lets nobody in.
async fn replays(settings: &WalmgrSettings, dir: &Path, patience: Duration) -> anyhow::Result<Lsn> {
    let began = Instant::now();
    loop {
        let late = began.elapsed() > patience;
        let found = match target(settings) {
            Ok(server) => match connect(&server, &settings.process.job_name).await {
                // It may end those that come early.
                Ok(session) => server::replayed(&session).await.unwrap_or_default(),
                Err(error) if late => return Err(error.into()),
                Err(_) => None,
            },
            Err(error) if late => return Err(error),
            Err(_) => None,
        };
        match found {
            Some(lsn) => return Ok(lsn),
            None if late => {
                return Err(ServerError::NotRunning {
                    data_dir: dir.to_owned(),
                }
                .into());
            }
            None => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

fn say(report: &Report, dir: &Path, args: &CreateArgs, context: &Context) -> anyhow::Result<Outcome> {
    let out = &context.output;
    if out.mode() == OutputMode::Json {
        out.json(report)?;
        return Ok(Outcome::Done);
    }
    if report.already {
        out.line(format!("{} is a standby of this cluster already", dir.display()))?;
    }
    if let Some(restored) = &report.restored {
        out.line(restored.words())?;
    }
    if let Some(slot) = &report.slot {
        out.line(format!("slot       {slot}"))?;
    }
    match &report.replay_lsn {
        Some(lsn) => out.line(format!("it runs, and has replayed up to {lsn}"))?,
        None if args.dry_run => out.note("nothing was done"),
        None if report.already => {}
        None => out.line(format!("next: pg_ctl -D {} start", dir.display()))?,
    }
    Ok(Outcome::Done)
}
