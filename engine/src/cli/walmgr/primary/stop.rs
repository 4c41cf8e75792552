//! `stop`: a server archives no more.

use std::time::Duration;

use rustix::process::Signal;
use serde::Serialize;
use skytide_wal::server::{self, SyncNames};

use super::session;
use crate::causes;
use crate::cli::failure::Failure;
use crate::cli::output::OutputMode;
use crate::cli::walmgr::store;
use crate::cli::{Context, Outcome};
use crate::config::settings::WalmgrSettings;
use crate::config::unit;
use crate::daemon::pidfile;

pub const HELP: &str = "\
Ends the segment that is being written, waits until the stores have it, and then sets archive_command to nothing and \
archive_mode to off. No WAL is thrown away: the server keeps it until it is restarted without archiving, and setup before \
that takes up again with nothing missing. Commits do not wait for receive (receive_name) any more, and the process of \
pidfile is told to stop.

Example:
  skytide walmgr /etc/skytide/wal.ini stop";

#[derive(clap::Args, Debug)]
pub struct StopArgs {
    /// Though the stores do not take WAL, though another program archives
    #[arg(long)]
    force: bool,
    /// How long a segment may take into the stores
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = unit::duration)]
    wait: Duration,
}

#[derive(Serialize)]
struct Report {
    /// The last one in the stores; null: it is not known.
    last_segment: Option<String>,
    restart_needed: bool,
    /// Holds WAL on the server as long as it is there.
    slot: Option<String>,
    process_stopped: bool,
}

pub async fn run(settings: &WalmgrSettings, args: &StopArgs, context: &Context) -> anyhow::Result<Outcome> {
    let session = session(settings).await?;
    let mode = server::running(&session, "archive_mode")
        .await?
        .unwrap_or_default();
    let command = server::running(&session, "archive_command")
        .await?
        .unwrap_or_default();
    let theirs = mode != "off" && !command.is_empty() && !command.contains("walmgr");
    if theirs && !args.force {
        return Err(Failure::new("another program archives this server's WAL")
            .detail(format!("archive_command = {command}"))
            .hint("stop --force ends that, too.")
            .into());
    }
    let mut last_segment = None;
    if mode != "off" && !command.is_empty() && !theirs {
        match server::prove(&session, &store::open_all(settings)?, args.wait).await {
            Ok(proof) => last_segment = Some(proof.segment),
            Err(error) if args.force => context.output.warn(&causes::chain(&error)),
            Err(error) => {
                return Err(anyhow::Error::new(error)
                    .context("the stores do not have everything; stop --force stops all the same"));
            }
        }
    }
    no_longer_waited_for(settings, &session).await?;
    server::unset(&session).await?;
    let slot = match &settings.receive.slot {
        Some(slot) if server::has_slot(&session, slot).await? => Some(slot.to_string()),
        _ => None,
    };
    let mut restart_needed = mode != "off";
    if let (true, Some(command)) = (restart_needed, &settings.commands.restart_primary) {
        drop(session);
        let session = super::setup::restart(settings, command).await?;
        let mode = server::running(&session, "archive_mode").await?;
        restart_needed = mode.as_deref() != Some("off");
    }
    let process_stopped = match &settings.process.pidfile {
        Some(path) => pidfile::send(path, Signal::INT)?,
        None => false,
    };
    let report = Report {
        last_segment,
        restart_needed,
        slot,
        process_stopped,
    };
    say(&report, context)
}

/// A commit that waits for a receiver which is stopped waits for ever.
async fn no_longer_waited_for(
    settings: &WalmgrSettings,
    session: &skytide_sql::conn::Session,
) -> anyhow::Result<()> {
    let names = server::running(session, "synchronous_standby_names").await?;
    let named = names.unwrap_or_default().parse::<SyncNames>();
    let ours = |names: &SyncNames| {
        let is = |name: &String| name.eq_ignore_ascii_case(&settings.receive.name);
        names.names.iter().any(is)
    };
    if named.is_ok_and(|names| ours(&names)) {
        let nobody: SyncNames = "".parse()?;
        server::name_them(session, &nobody, true, Duration::from_secs(10)).await?;
    }
    Ok(())
}

fn say(report: &Report, context: &Context) -> anyhow::Result<Outcome> {
    let out = &context.output;
    if out.mode() == OutputMode::Json {
        out.json(report)?;
        return Ok(Outcome::Done);
    }
    match &report.last_segment {
        Some(segment) => out.line(format!("stopped; the stores have everything up to {segment}"))?,
        None => out.line("stopped")?,
    }
    if report.restart_needed {
        out.line(
            "the server keeps its WAL in pg_wal until it is restarted; setup before that takes up again",
        )?;
    }
    if let Some(slot) = &report.slot {
        out.line(format!(
            "slot {slot} holds WAL on the server: select pg_drop_replication_slot('{slot}') if receive does not come back"
        ))?;
    }
    if report.process_stopped {
        out.line("the process of pidfile was told to stop")?;
    }
    Ok(Outcome::Done)
}
