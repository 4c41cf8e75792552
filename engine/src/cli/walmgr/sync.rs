//! `sync`: what the server has and the stores have not, once.

use serde::Serialize;
use skytide_wal::server::Postmaster;
use skytide_wal::ship::{SalvageSettings, Settings, Shipper, salvage};

use super::store;
use crate::cli::failure::Failure;
use crate::cli::output::OutputMode;
use crate::cli::{Context, Outcome};
use crate::config::settings::WalmgrSettings;

pub const HELP: &str = "\
One round of ship; and if the server is down, as after a clean stop for a switchover or a crash, one of salvage. What a \
store has already is not copied again.

Example:
  skytide walmgr /etc/skytide/wal.ini sync";

#[derive(Serialize)]
struct Report {
    server: &'static str,
    stores: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    store: String,
    /// Behind the last whole record.
    safe_lsn: String,
    trouble: Option<String>,
}

pub async fn run(settings: &WalmgrSettings, context: &Context) -> anyhow::Result<Outcome> {
    let data_dir = settings.data_dir.clone().ok_or_else(|| {
        Failure::usage("sync needs a data directory").hint("Set master_data to the server's data directory.")
    })?;
    let report = match Postmaster::find(&data_dir)? {
        Some(_) => {
            let server = settings.server.clone().ok_or_else(|| {
                Failure::usage("sync needs to ask the server that runs")
                    .hint("Set master_db to its connect string.")
            })?;
            let shipper = Shipper::new(Settings {
                data_dir,
                server,
                application_name: format!("{} sync", settings.receive.name),
                interval: settings.ship_interval,
                stores: store::open_all(settings)?,
                stores_needed: settings.stores_needed,
                compression_level: settings.compression_level,
            });
            shipper.once().await?;
            let stores = shipper.window().stores().into_iter();
            let stores = stores.map(|store| Row {
                safe_lsn: store.safe.boundary.to_string(),
                store: store.location,
                trouble: store.trouble,
            });
            Report {
                server: "runs",
                stores: stores.collect(),
            }
        }
        None => {
            let done = salvage(SalvageSettings {
                data_dir,
                stores: store::open_all(settings)?,
                stores_needed: settings.stores_needed,
                compression_level: settings.compression_level,
                believe_dead: false,
            })
            .await?;
            let stores = done.stores.into_iter().map(|store| Row {
                store: store.location,
                safe_lsn: store.has.to_string(),
                trouble: store.trouble,
            });
            Report {
                server: match done.state.is_clean() {
                    true => "was stopped",
                    false => "is dead",
                },
                stores: stores.collect(),
            }
        }
    };
    if context.output.mode() == OutputMode::Json {
        context.output.json(&report)?;
    } else {
        context.output.line(format!("the server {}", report.server))?;
        for row in &report.stores {
            let trouble = row
                .trouble
                .as_ref()
                .map_or(String::new(), |why| format!(", behind: {why}"));
            context
                .output
                .line(format!("{} has WAL up to {}{trouble}", row.store, row.safe_lsn))?;
        }
    }
    let whole = report.stores.iter().filter(|row| row.trouble.is_none()).count();
    match whole >= settings.stores_needed {
        true => Ok(Outcome::Done),
        false => Err(Failure::new(format!(
            "only {whole} of {} stores have everything",
            settings.stores_needed
        ))
        .hint("Run sync again when the others can be reached; it copies what they lack.")
        .into()),
    }
}
