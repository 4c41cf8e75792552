//! `periodic`: what has to be done every now and then, for a timer to call.

use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use skytide_wal::durable;
use skytide_wal::server::{self, Idle};

use super::session;
use crate::cli::output::OutputMode;
use crate::cli::walmgr::line;
use crate::cli::{Context, Outcome};
use crate::config::settings::WalmgrSettings;
use crate::config::unit;

pub const HELP: &str = "\
For cron or a timer. Ends the segment that is being written if nothing was archived for command_interval and a transaction \
has begun since the last time, so that a quiet server's last rows come into the stores; receive and ship do not need it. \
Runs periodic_command if it did not run for as long. When that was is kept beside the configuration, with the extension \
periodic.

Example:
  * * * * *  skytide walmgr /etc/skytide/wal.ini --quiet periodic";

/// What is remembered from one time to the next.
#[derive(Default)]
struct Before {
    xid: Option<String>,
    /// Seconds since 1970.
    ran: Option<i64>,
}

impl Before {
    /// A file that cannot be read is as good as none: one more segment ends.
    fn read(path: &Path) -> Before {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let value = |name: &str| {
            let found = text
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(" = "));
            found.map(str::to_owned)
        };
        Before {
            xid: value("xid"),
            ran: value("ran").and_then(|ran| ran.parse().ok()),
        }
    }

    fn write(&self, path: &Path) -> anyhow::Result<()> {
        let mut text = String::new();
        if let Some(xid) = &self.xid {
            text.push_str(&format!("xid = {xid}\n"));
        }
        if let Some(ran) = self.ran {
            text.push_str(&format!("ran = {ran}\n"));
        }
        Ok(durable::replace(path, text.as_bytes())?)
    }
}

#[derive(Serialize)]
struct Report {
    /// The one that was ended.
    segment: Option<String>,
    command_ran: bool,
}

pub async fn run(settings: &WalmgrSettings, conf: &Path, context: &Context) -> anyhow::Result<Outcome> {
    let path = conf.with_extension("periodic");
    let mut state = Before::read(&path);
    let interval = settings.commands.interval;
    let session = session(settings).await?;
    let (idle, xid) = server::switch_if_idle(&session, interval, state.xid.as_deref()).await?;
    drop(session);
    let (segment, words) = match idle {
        Idle::Busy { since } => (
            None,
            format!("WAL was archived {} ago", unit::show_duration(since)),
        ),
        Idle::Unchanged => (None, "nothing was written since the last time".to_owned()),
        Idle::Switched { segment } => {
            let words = format!("ended segment {segment}");
            (Some(segment), words)
        }
    };
    state.xid = Some(xid).filter(|xid| !xid.is_empty());
    state.write(&path)?;
    let now = jiff::Timestamp::now().as_second();
    let command = settings
        .commands
        .periodic
        .as_ref()
        .filter(|_| due(&state, now, interval));
    if let Some(command) = command {
        line::shell("periodic_command", command, &[]).await?;
        state.ran = Some(now);
        state.write(&path)?;
    }
    let report = Report {
        segment,
        command_ran: command.is_some(),
    };
    if context.output.mode() == OutputMode::Json {
        context.output.json(&report)?;
        return Ok(Outcome::Done);
    }
    context.output.note(&words);
    if report.command_ran {
        context.output.note("periodic_command ran");
    }
    Ok(Outcome::Done)
}

/// Never run, or long ago; a clock that was put back does not stop it.
fn due(state: &Before, now: i64, interval: Duration) -> bool {
    let interval = i64::try_from(interval.as_secs()).unwrap_or(i64::MAX);
    state
        .ran
        .is_none_or(|ran| now.saturating_sub(ran) >= interval || ran > now)
}
