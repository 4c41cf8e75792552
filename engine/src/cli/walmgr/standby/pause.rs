//! `pause` and `continue`: a standby's replay is held and let go.

use std::time::Duration;

use serde::Serialize;
use skytide_sql::conn::connect;
use skytide_wal::server;

use super::target;
use crate::cli::output::OutputMode;
use crate::cli::{Context, Outcome};
use crate::config::settings::WalmgrSettings;
use crate::config::unit;

pub const PAUSE_HELP: &str = "\
The standby shows its data as it is until continue. It goes on receiving WAL. Done when replay stands still.

Example:
  skytide walmgr /etc/skytide/wal-slave.ini pause";

pub const CONTINUE_HELP: &str = "\
Example:
  skytide walmgr /etc/skytide/wal-slave.ini continue";

#[derive(clap::Args, Debug)]
pub struct PauseArgs {
    /// How long it may take
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = unit::duration)]
    wait: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    Pause,
    Continue,
}

#[derive(Serialize)]
struct Report {
    state: String,
    /// Behind the last record that was replayed.
    replay_lsn: Option<String>,
}

pub async fn run(
    settings: &WalmgrSettings,
    which: Which,
    args: &PauseArgs,
    context: &Context,
) -> anyhow::Result<Outcome> {
    let session = connect(&target(settings)?, &settings.process.job_name).await?;
    let replay = match which {
        Which::Pause => server::pause(&session, args.wait).await?,
        Which::Continue => server::resume(&session, args.wait).await?,
    };
    let report = Report {
        state: replay.state,
        replay_lsn: replay.lsn.map(|lsn| lsn.to_string()),
    };
    if context.output.mode() == OutputMode::Json {
        context.output.json(&report)?;
        return Ok(Outcome::Done);
    }
    let at = report.replay_lsn.as_deref().unwrap_or("an unknown place");
    context.output.line(match which {
        Which::Pause => format!("replay stands still at {at}"),
        Which::Continue => format!("replay goes on from {at}"),
    })?;
    Ok(Outcome::Done)
}
