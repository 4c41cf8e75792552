//! `boot`: the standby on this host takes over.

use std::time::Duration;

use serde::Serialize;
use skytide_wal::server::{self, Takeover, TookOver};

use super::{data_dir, target};
use crate::cli::output::OutputMode;
use crate::cli::walmgr::store;
use crate::cli::{Context, Outcome};
use crate::config::settings::WalmgrSettings;
use crate::config::unit;

pub const HELP: &str = "\
Replays what the stores have, promotes the standby, and waits until it takes writes. It is refused while the primary \
streams to it or answers, when a store cannot be asked, and when the standby does not get what a store has. After it took over, it is \
a success that changes nothing.

It looks at no other standby: skytide promote chooses among several and fences the primary.

Example:
  skytide walmgr /etc/skytide/wal-slave.ini boot";

#[derive(clap::Args, Debug)]
pub struct BootArgs {
    /// Take over though the primary lives, though WAL is missing
    #[arg(long)]
    force: bool,
    /// How long replay may take, and again the promotion
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = unit::duration)]
    wait: Duration,
}

#[derive(Serialize)]
struct Report {
    already: bool,
    timeline: u32,
    left_timeline: Option<u32>,
    left_lsn: Option<String>,
    stored_lsn: Option<String>,
    store: Option<String>,
    replay_ms: u128,
    promote_ms: u128,
}

pub async fn run(settings: &WalmgrSettings, args: &BootArgs, context: &Context) -> anyhow::Result<Outcome> {
    let takeover = Takeover {
        data_dir: data_dir(settings)?.to_owned(),
        server: target(settings)?,
        primary: settings.server.clone(),
        application_name: settings.process.job_name.clone(),
        stores: store::open_all(settings)?,
        patience: args.wait,
        force: args.force,
    };
    let report = Report::of(server::take_over(&takeover).await?);
    if context.output.mode() == OutputMode::Json {
        context.output.json(&report)?;
        return Ok(Outcome::Done);
    }
    context.output.line(report.words())?;
    Ok(Outcome::Done)
}

impl Report {
    fn of(done: TookOver) -> Report {
        let (stored_lsn, store) = done.stored.unzip();
        Report {
            already: done.already,
            timeline: done.timeline.as_u32(),
            left_timeline: done.left.as_ref().map(|left| left.timeline.as_u32()),
            left_lsn: done.left.map(|left| left.lsn.to_string()),
            stored_lsn: stored_lsn.map(|lsn| lsn.to_string()),
            store,
            replay_ms: done.replayed_in.as_millis(),
            promote_ms: done.promoted_in.as_millis(),
        }
    }

    fn words(&self) -> String {
        let timeline = self.timeline;
        let left = match (self.left_timeline, &self.left_lsn) {
            (Some(before), Some(lsn)) => format!(", which left timeline {before} at {lsn}"),
            _ => String::new(),
        };
        if self.already {
            return format!("it takes writes already, on timeline {timeline}{left}");
        }
        let mut words = format!("it takes writes on timeline {timeline}{left}");
        if let (Some(lsn), Some(store)) = (&self.stored_lsn, &self.store) {
            words.push_str(&format!(
                "\nWAL up to {lsn} came from store {store}, replayed after {} ms",
                self.replay_ms
            ));
        }
        words.push_str(&format!("\npromoted in {} ms", self.promote_ms));
        words
    }
}
