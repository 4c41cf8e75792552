//! `salvage`: a dead server's WAL, once.

use serde::Serialize;
use skytide_wal::ship::{SalvageSettings, Salvaged, salvage};

use super::status::moment;
use super::store;
use crate::cli::failure::Failure;
use crate::cli::output::OutputMode;
use crate::cli::{Context, Outcome};
use crate::config::settings::WalmgrSettings;

pub const HELP: &str = "\
Reads the data directory (master_data) of a server that does not run, finds where its own recovery would end, and \
copies what the stores lack up to there: acknowledged commits are all before that place. Nothing is written into the \
data directory.

Exit code 0: every store that was asked for has everything. 1: something is missing or damaged, and the message says \
what. 2: the configuration is wrong.

Example:
  skytide walmgr /etc/skytide/wal.ini salvage";

#[derive(clap::Args, Debug)]
pub struct SalvageArgs {
    /// The process that postmaster.pid names is not the postmaster
    #[arg(long)]
    believe_dead: bool,
}

#[derive(Serialize)]
struct Report {
    system_identifier: u64,
    timeline: u32,
    state: String,
    redo_lsn: String,
    end_lsn: String,
    behind_end: String,
    records: u64,
    last_commit: Option<String>,
    stores: Vec<StoreReport>,
}

#[derive(Serialize)]
struct StoreReport {
    store: String,
    had_lsn: String,
    has_lsn: String,
    copied_bytes: u64,
    complete: bool,
    trouble: Option<String>,
}

impl Report {
    fn of(done: &Salvaged) -> Report {
        let stores = done.stores.iter().map(|store| StoreReport {
            store: store.location.clone(),
            had_lsn: store.had.to_string(),
            has_lsn: store.has.to_string(),
            copied_bytes: store.has.bytes_since(store.had).unwrap_or(0),
            complete: store.has >= done.end_lsn && store.trouble.is_none(),
            trouble: store.trouble.clone(),
        });
        Report {
            system_identifier: done.system_id,
            timeline: done.timeline.as_u32(),
            state: done.state.to_string(),
            redo_lsn: done.redo_lsn.to_string(),
            end_lsn: done.end_lsn.to_string(),
            behind_end: done.tail.to_string(),
            records: done.records,
            last_commit: done.last_commit.map(moment),
            stores: stores.collect(),
        }
    }
}

pub async fn run(
    settings: &WalmgrSettings,
    args: &SalvageArgs,
    context: &Context,
) -> anyhow::Result<Outcome> {
    let Some(data_dir) = settings.data_dir.clone() else {
        return Err(Failure::usage("salvage needs a data directory")
            .hint("Set master_data to the dead server's data directory.")
            .into());
    };
    let done = salvage(SalvageSettings {
        data_dir,
        stores: store::open_all(settings)?,
        stores_needed: settings.stores_needed,
        compression_level: settings.compression_level,
        believe_dead: args.believe_dead,
    })
    .await?;
    let report = Report::of(&done);
    match context.output.mode() {
        OutputMode::Json => context.output.json(&report)?,
        OutputMode::Table => print(&report, context)?,
    }
    let complete = report.stores.iter().filter(|store| store.complete).count();
    match complete >= settings.stores_needed {
        true => Ok(Outcome::Done),
        false => Err(Failure::new(format!(
            "only {complete} of {} stores have everything",
            settings.stores_needed
        ))
        .hint("Run salvage again when the others can be reached; it copies what they lack.")
        .into()),
    }
}

fn print(report: &Report, context: &Context) -> anyhow::Result<()> {
    let out = &context.output;
    out.line(format!("cluster        {}", report.system_identifier))?;
    out.line(format!("timeline       {}", report.timeline))?;
    out.line(format!("it was         {}", report.state))?;
    out.line(format!(
        "WAL            {} records from {} to {}, then {}",
        report.records, report.redo_lsn, report.end_lsn, report.behind_end
    ))?;
    let commit = report
        .last_commit
        .as_deref()
        .unwrap_or("none since the last checkpoint");
    out.line(format!("last commit    {commit}"))?;
    for store in &report.stores {
        let words = match (&store.trouble, store.complete) {
            (Some(why), _) => format!("behind at {}: {why}", store.has_lsn),
            (None, true) if store.copied_bytes == 0 => format!("had everything, up to {}", store.has_lsn),
            (None, true) => format!("complete, {} bytes from {} on", store.copied_bytes, store.had_lsn),
            (None, false) => format!("behind at {}", store.has_lsn),
        };
        out.line(format!("{}  {words}", store.store))?;
    }
    Ok(())
}
