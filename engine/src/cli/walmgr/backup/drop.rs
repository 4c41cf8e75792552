//! `drop-timeline`: a timeline that was a mistake or a rehearsal goes, and the server that it left is let in again.

use anyhow::Context as _;
use skytide_wal::TimelineId;
use skytide_wal::backup::abandon;
use skytide_wal::walsender::{Client, Mode};

use super::purge::{Row, show};
use crate::cli::failure::Failure;
use crate::cli::walmgr::old::lock;
use crate::cli::walmgr::store;
use crate::cli::{Context, Outcome};
use crate::config::settings::WalmgrSettings;

pub const HELP: &str = "\
For a server that was restored to try it out, was promoted and archived into the cluster's stores: since then they follow \
its timeline, and refuse the cluster's own server. Stop that one, and drop its timeline: its WAL, its history and the \
backups that were taken on it go from every store. The timeline of the server in master_db is not dropped.

Examples:
  skytide walmgr wal.ini drop-timeline 2 --dry-run
  skytide walmgr wal.ini drop-timeline 2";

#[derive(clap::Args, Debug)]
pub struct DropArgs {
    /// The timeline's number
    timeline: TimelineId,
    /// Only say what would go
    #[arg(short = 'n', long)]
    pub dry_run: bool,
}

pub async fn run(settings: &WalmgrSettings, args: &DropArgs, context: &Context) -> anyhow::Result<Outcome> {
    lock::check(settings)?;
    let timeline = args.timeline;
    if let Some(server) = &settings.server {
        let ask = async {
            let mut client = Client::connect(server, Mode::Physical, "skytide walmgr").await?;
            client.identify_system().await
        };
        let system = ask
            .await
            .context("ask the server in master_db for its timeline")?;
        if system.timeline == timeline {
            return Err(Failure::new(format!(
                "the server in master_db is on timeline {timeline}, which is not given up then"
            ))
            .hint("Name the cluster's own server in master_db.")
            .into());
        }
    }
    // All of them are asked before anything goes from one.
    let mut plans = Vec::new();
    for store in store::open_all(settings)? {
        if let Some(plan) = abandon::plan(&store, timeline).await? {
            plans.push((store, plan));
        }
    }
    if plans.is_empty() {
        return Err(Failure::new(format!("no store has timeline {timeline}"))
            .hint("skytide walmgr CONF stores shows the timelines.")
            .into());
    }
    let mut rows = Vec::new();
    for (store, plan) in &plans {
        rows.extend(Row::of(store.location(), plan));
        rows.push(Row::new(
            store.location(),
            "history",
            format!("{:08X}.history", timeline.as_u32()),
            0,
        ));
        if !args.dry_run {
            abandon::carry_out(&**store, timeline, plan).await?;
        }
    }
    show(&rows, args.dry_run, context)
}
