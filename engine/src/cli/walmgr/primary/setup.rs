//! `setup`: a server archives into the stores from now on.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde::Serialize;
use skytide_sql::conn::{Session, connect};
use skytide_wal::backup::{Summary, list};
use skytide_wal::server::{self, Change, Proof, Setting, Wanted};
use skytide_wal::store::DirStore;
use skytide_wal::store::identity::Identity;
use skytide_wal::walsender::{Client, Mode};

use super::{session, target};
use crate::causes;
use crate::cli::failure::Failure;
use crate::cli::output::OutputMode;
use crate::cli::walmgr::{backup, line, store};
use crate::cli::{Context, Outcome};
use crate::config::settings::{Role, StoreAt, WalmgrSettings};
use crate::config::unit;

pub const HELP: &str = "\
Makes the stores and lets the server archive into them: wal_level, archive_mode, archive_command, max_wal_senders and \
max_replication_slots are changed by ALTER SYSTEM where they have to be, and a segment is sent through as a proof. What \
needs a restart is said; with master_restart_cmd it is done. Again, it changes nothing.

Run it as the user the server runs as, on its host; master_db names a superuser. In a standby's configuration (slave_data) \
it makes the stores.

Exit code 3: with --dry-run, something has to be changed.

Examples:
  skytide walmgr /etc/skytide/wal.ini setup --dry-run
  skytide walmgr /etc/skytide/wal.ini setup --backup";

/// A restart ends when the server has recovered.
const RESTARTS: Duration = Duration::from_secs(300);

#[derive(clap::Args, Debug)]
pub struct SetupArgs {
    /// Only say what would be done
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// Take the place of another program's archive_command
    #[arg(long)]
    replace: bool,
    /// Take the first backup, if there is none
    #[arg(long)]
    backup: bool,
    /// How long a segment may take into the stores
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = unit::duration)]
    wait: Duration,
}

#[derive(Serialize)]
struct Report {
    settings: Vec<Row>,
    stores: Vec<String>,
    /// Nothing is archived before.
    restart_needed: bool,
    proof: Option<Shown>,
    /// Why no replication connection is to be had, which backup and receive need.
    replication: Option<String>,
    backup: Option<Summary>,
}

#[derive(Serialize)]
struct Row {
    name: &'static str,
    was: String,
    now: String,
    state: &'static str,
}

#[derive(Serialize)]
struct Shown {
    segment: String,
    ms: u128,
}

pub async fn run(
    settings: &WalmgrSettings,
    conf: &Path,
    args: &SetupArgs,
    context: &Context,
) -> anyhow::Result<Outcome> {
    if settings.role == Role::Standby {
        return match args.dry_run {
            true => Err(Failure::usage("a standby's setup makes the stores, and has nothing to show").into()),
            false => store::create(settings, context).await,
        };
    }
    same_user(settings)?;
    let session = session(settings).await?;
    let identity = identity(settings, &session).await?;
    let wanted = Wanted {
        archive_command: line::archive_command(conf)?,
        slots: settings.receive.slot.is_some(),
    };
    let before = server::read(&session, &wanted).await?;
    if let Some(theirs) = before.iter().find(|setting| server::is_foreign(setting))
        && !args.replace
    {
        return Err(Failure::new(format!("{} is set already", theirs.name))
            .detail(theirs.later.clone())
            .hint(
                "setup --replace takes its place. Keep what it has archived as long as old backups need it.",
            )
            .into());
    }
    let mut report = Report {
        settings: rows(&before, &before, args.dry_run),
        stores: Vec::new(),
        restart_needed: false,
        proof: None,
        replication: replication(settings).await,
        backup: None,
    };
    if args.dry_run {
        let changes = before.iter().any(|setting| setting.change != Change::None);
        report.restart_needed = waits(&before);
        say(&report, true, context)?;
        return Ok(match changes {
            true => Outcome::No,
            false => Outcome::Done,
        });
    }
    let archives = |setting: &Setting| setting.name == "archive_command" && setting.change == Change::None;
    report.stores = stores(settings, identity, before.iter().any(archives)).await?;
    server::apply(&session, &before).await?;
    let (session, after) = restarted(settings, session, &wanted).await?;
    report.settings = rows(&before, &after, false);
    report.restart_needed = waits(&after);
    if !report.restart_needed {
        let stores = store::open_all(settings)?;
        let Proof { segment, took } = server::prove(&session, &stores, args.wait).await?;
        let ms = took.as_millis();
        report.proof = Some(Shown { segment, ms });
        report.replication = replication(settings).await;
    }
    drop(session);
    if args.backup && !report.restart_needed {
        let stores = backup::stores(settings)?;
        let none = !list(&stores).await?.iter().any(Result::is_ok);
        if none {
            report.backup = Some(backup::take::first(settings, context).await?);
        }
    }
    say(&report, false, context)?;
    Ok(Outcome::Done)
}

/// What the server's user cannot read or write is of no use to it.
fn same_user(settings: &WalmgrSettings) -> anyhow::Result<()> {
    let Some(dir) = &settings.data_dir else {
        return Ok(());
    };
    let owner = std::fs::metadata(dir)
        .with_context(|| format!("look at {}", dir.display()))?
        .uid();
    let ours = rustix::process::geteuid().as_raw();
    match owner == ours {
        true => Ok(()),
        false => Err(Failure::usage(format!(
            "{} belongs to the user with number {owner}, and this one has {ours}",
            dir.display()
        ))
        .hint(
            "Run setup as the user the server runs as: it will read this configuration and write the stores.",
        )
        .into()),
    }
}

/// The server's, which has to be the data directory's.
async fn identity(settings: &WalmgrSettings, session: &Session) -> anyhow::Result<Identity> {
    let identity = server::primary(session).await?;
    let server = identity.system_id;
    match store::system_id(settings)?.filter(|directory| *directory != server) {
        None => Ok(identity),
        Some(directory) => Err(Failure::usage(format!(
            "the server has system identifier {server}, the data directory {directory}"
        ))
        .hint("Set master_db and master_data to the same server.")
        .into()),
    }
}

/// Makes what is not there. Where WAL is archived already, a directory that is gone is a file system that is not mounted.
async fn stores(
    settings: &WalmgrSettings,
    identity: Identity,
    archives: bool,
) -> anyhow::Result<Vec<String>> {
    for at in &settings.stores {
        if let (StoreAt::Dir(path), false) = (at, archives) {
            DirStore::create(path)?;
        }
    }
    let mut locations = Vec::new();
    for store in store::open_all(settings)? {
        identity.claim(&*store).await?;
        locations.push(store.location().to_owned());
    }
    Ok(locations)
}

fn waits(settings: &[Setting]) -> bool {
    let waits = |setting: &Setting| matches!(setting.change, Change::Waits | Change::Restart);
    settings.iter().any(waits)
}

/// Restarts the server if that is needed and the configuration says how.
async fn restarted(
    settings: &WalmgrSettings,
    session: Session,
    wanted: &Wanted,
) -> anyhow::Result<(Session, Vec<Setting>)> {
    let after = server::read(&session, wanted).await?;
    let (true, Some(command)) = (waits(&after), &settings.commands.restart_primary) else {
        return Ok((session, after));
    };
    drop(session);
    let session = restart(settings, command).await?;
    let after = server::read(&session, wanted).await?;
    Ok((session, after))
}

/// Runs `master_restart_cmd`, and waits until the server answers again.
pub async fn restart(settings: &WalmgrSettings, command: &str) -> anyhow::Result<Session> {
    line::shell("master_restart_cmd", command, &[]).await?;
    let end = Instant::now() + RESTARTS;
    loop {
        match connect(target(settings)?, &settings.process.job_name).await {
            Ok(session) => return Ok(session),
            Err(error) if Instant::now() > end => {
                return Err(anyhow::Error::new(error).context("wait for the server after its restart"));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

/// What stands in the way of a replication connection.
async fn replication(settings: &WalmgrSettings) -> Option<String> {
    let name = format!("{} setup", settings.process.job_name);
    let error = Client::connect(settings.server.as_ref()?, Mode::Physical, &name)
        .await
        .err()?;
    Some(causes::chain(&error))
}

fn rows(before: &[Setting], after: &[Setting], dry_run: bool) -> Vec<Row> {
    let rows = before.iter().zip(after).map(|(was, is)| Row {
        name: is.name,
        was: was.now.clone(),
        now: match is.change {
            Change::None => is.now.clone(),
            _ => is.wanted.clone(),
        },
        state: match (is.change, was.change) {
            (Change::None, Change::None) => "right",
            (Change::None, _) => "set",
            (Change::Waits, _) => "after a restart",
            (Change::Reload, _) if dry_run => "to be set",
            (Change::Restart, _) if dry_run => "to be set, needs a restart",
            (Change::Reload | Change::Restart, _) => "not set",
        },
    });
    rows.collect()
}

fn say(report: &Report, dry_run: bool, context: &Context) -> anyhow::Result<()> {
    let out = &context.output;
    if out.mode() == OutputMode::Json {
        return out.json(report);
    }
    let told: Vec<&Row> = report
        .settings
        .iter()
        .filter(|row| !(row.was.is_empty() && row.now.is_empty()))
        .collect();
    out.rows(&["Setting", "", "Value"], &told, |row| {
        let value = match row.was == row.now || ["", "(disabled)"].contains(&row.was.as_str()) {
            true => row.now.clone(),
            false => format!("{}, was {}", row.now, row.was),
        };
        vec![row.name.to_owned(), row.state.to_owned(), value]
    })?;
    for location in &report.stores {
        out.line(format!("store {location} is ready"))?;
    }
    if let Some(proof) = &report.proof {
        let (segment, ms) = (&proof.segment, proof.ms);
        out.line(format!(
            "WAL is archived: {segment} was in every store after {ms} ms"
        ))?;
    }
    if let Some(backup) = &report.backup {
        out.line(backup::take::words(backup))?;
    }
    if let Some(why) = &report.replication {
        out.warn(&format!(
            "no replication connection, which backup and receive need (backup --local does not): {why}"
        ));
    }
    match (dry_run, report.restart_needed) {
        (true, _) => out.note("nothing was changed"),
        (false, true) => out.note("restart the server, then run setup again: nothing is archived before"),
        (false, false) => {}
    }
    Ok(())
}
