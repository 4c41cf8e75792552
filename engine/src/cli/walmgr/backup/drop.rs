//! `drop-timeline`: a timeline that was a mistake or a trial goes, and the server that it left is let in again.

use anyhow::Context as _;
use skytide_wal::backup::abandon::{self, Living};
use skytide_wal::walsender::{Client, Mode};
use skytide_wal::{HistoryFile, TimelineId};

use super::purge::{Row, show};
use crate::cli::failure::Failure;
use crate::cli::walmgr::old::lock;
use crate::cli::walmgr::store;
use crate::cli::{Context, Outcome};
use crate::config::settings::WalmgrSettings;

pub const HELP: &str = "\
For a server that was restored to try it out, was promoted and archived into the cluster's stores: since then they follow \
its timeline, and refuse the cluster's own server. Stop that one, and the daemons that work on these stores, and drop its \
timeline: its WAL, its history and the backups that were taken on it go from every store. There is no way back.

The server in master_db has to be the cluster's own, and to answer. What its timeline comes from is not dropped.

Examples:
  skytide walmgr wal.ini drop-timeline 2 --dry-run
  skytide walmgr wal.ini drop-timeline 2 --yes";

#[derive(clap::Args, Debug)]
pub struct DropArgs {
    /// The timeline's number
    timeline: TimelineId,
    /// Do it; there is no way back
    #[arg(long)]
    yes: bool,
    /// Only say what would go
    #[arg(short = 'n', long)]
    pub dry_run: bool,
}

pub async fn run(settings: &WalmgrSettings, args: &DropArgs, context: &Context) -> anyhow::Result<Outcome> {
    lock::no_daemon(settings)?;
    let timeline = args.timeline;
    let living = living(settings).await?;
    let stores = store::open_all(settings)?;
    let plans = abandon::plan(&stores, timeline, &living).await?;
    let mut rows = Vec::new();
    for (store, abandoned) in stores.iter().zip(&plans) {
        let Some(abandoned) = abandoned else { continue };
        rows.extend(Row::of(store.location(), &abandoned.purge));
        if let Some((_, bytes)) = &abandoned.history {
            let name = format!("{:08X}.history", timeline.as_u32());
            rows.push(Row::new(store.location(), "history", name, *bytes));
        }
    }
    if rows.is_empty() {
        return Err(Failure::new(format!("no store has timeline {timeline}"))
            .hint("skytide walmgr CONF stores shows the timelines.")
            .into());
    }
    let shown = show(&rows, args.dry_run, context)?;
    if args.dry_run {
        return Ok(shown);
    }
    if !args.yes {
        let own = living.path.timeline();
        return Err(Failure::usage(format!(
            "drop-timeline {timeline} removes all this, and was not told --yes"
        ))
        .hint(format!(
            "If the server in master_db, which is on timeline {own}, is the cluster's own: drop-timeline {timeline} --yes"
        ))
        .into());
    }
    for (store, abandoned) in stores.iter().zip(&plans) {
        if let Some(abandoned) = abandoned {
            abandon::carry_out(&**store, abandoned)
                .await
                .with_context(|| format!("remove it from {}", store.location()))?;
        }
    }
    Ok(shown)
}

async fn living(settings: &WalmgrSettings) -> anyhow::Result<Living> {
    let Some(server) = &settings.server else {
        return Err(
            Failure::usage("drop-timeline asks the cluster's own server which timelines it needs")
                .hint("Set master_db to its connect string.")
                .into(),
        );
    };
    let ask = async {
        let mut client = Client::connect(server, Mode::Physical, "skytide walmgr").await?;
        let system = client.identify_system().await?;
        let path = match system.timeline.as_u32() {
            1 => HistoryFile::root(system.timeline),
            _ => {
                let file = client.timeline_history(system.timeline).await?;
                HistoryFile::parse(system.timeline, &String::from_utf8_lossy(&file.content))?
            }
        };
        anyhow::Ok(Living {
            system_id: system.system_id,
            path,
        })
    };
    ask.await
        .context("ask the server in master_db for its timeline's history")
}
