//! `status`: how far each store is behind the server.

use std::time::{Duration, Instant};

use serde::Serialize;
use skytide_wal::TimelineId;
use skytide_wal::store::Store;
use skytide_wal::store::identity::Identity;
use skytide_wal::tail::look;
use skytide_wal::walsender::{Client, IdentifySystem, Mode, Timestamp};

use super::store;
use crate::causes;
use crate::cli::{Context, Outcome};
use crate::config::settings::WalmgrSettings;

pub const HELP: &str = "\
Asks the server (master_db) how far its WAL is on disk, and reads in every store where the last whole record ends. \
window_ms is measured: how long it takes until the store has what the server had when it was asked.

Exit code 0: every store could be read. 1: one could not.

Examples:
  skytide walmgr /etc/skytide/wal.ini status
  skytide walmgr /etc/skytide/wal.ini --json status --wait 10";

const POLL: Duration = Duration::from_millis(5);

#[derive(clap::Args, Debug)]
pub struct StatusArgs {
    /// Seconds to wait for a store to get what the server has
    #[arg(long, default_value_t = 2)]
    wait: u64,
}

#[derive(Serialize)]
struct Row {
    store: String,
    timeline: Option<u32>,
    /// Behind the last whole record.
    safe_lsn: Option<String>,
    last_commit: Option<String>,
    server_lsn: Option<String>,
    window_bytes: Option<u64>,
    window_ms: Option<u64>,
    /// The wait was too short: the window is longer than window_ms.
    still_open: bool,
    error: Option<String>,
}

pub async fn run(settings: &WalmgrSettings, args: &StatusArgs, context: &Context) -> anyhow::Result<Outcome> {
    let server = match &settings.server {
        None => None,
        Some(target) => match identify(target, &settings.receive.name).await {
            Ok(server) => Some((server, Instant::now())),
            Err(error) => {
                context
                    .output
                    .warn(&format!("the server does not answer: {}", causes::chain(&error)));
                None
            }
        },
    };
    let wait = Duration::from_secs(args.wait);
    let stores = store::open_all(settings)?;
    let rows = stores.iter().map(|store| row(&**store, server.as_ref(), wait));
    let rows = futures_util::future::join_all(rows).await;
    let heads = [
        "Store",
        "Timeline",
        "Safe",
        "Last commit",
        "Server",
        "Bytes",
        "ms",
    ];
    context.output.rows(&heads, &rows, |row| {
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let number = |value: &Option<u64>| value.map(|value| value.to_string()).unwrap_or_default();
        let ms = match row.still_open {
            true => format!("> {}", number(&row.window_ms)),
            false => number(&row.window_ms),
        };
        vec![
            row.store.clone(),
            row.timeline
                .map(|timeline| timeline.to_string())
                .unwrap_or_default(),
            match (&row.error, &row.safe_lsn) {
                (Some(_), None) => "unknown".to_owned(),
                _ => text(&row.safe_lsn),
            },
            text(&row.last_commit),
            text(&row.server_lsn),
            number(&row.window_bytes),
            ms,
        ]
    })?;
    for error in rows.iter().filter_map(|row| row.error.as_ref()) {
        context.output.warn(error);
    }
    match rows.iter().any(|row| row.error.is_some()) {
        true => Ok(Outcome::Code(1)),
        false => Ok(Outcome::Done),
    }
}

async fn identify(
    target: &skytide_sql::conn::ConnectString,
    name: &str,
) -> Result<IdentifySystem, skytide_wal::walsender::WalsenderError> {
    // The receiver's own name would count as a synchronous standby's.
    let mut client = Client::connect(target, Mode::Physical, &format!("{name} status")).await?;
    client.identify_system().await
}

/// Why the store's positions say nothing of what the server has.
async fn strangers(store: &dyn Store, server: &IdentifySystem, timeline: TimelineId) -> Option<String> {
    let location = store.location();
    match Identity::read(store).await {
        Ok(Some(identity)) if identity.system_id != server.system_id => Some(format!(
            "store {location} is that of cluster {}, the server's is {}",
            identity.system_id, server.system_id
        )),
        Err(error) => Some(causes::chain(&error)),
        _ if timeline != server.timeline => Some(format!(
            "store {location} has timeline {timeline}, the server is on {}: what would be lost is not known",
            server.timeline
        )),
        _ => None,
    }
}

async fn row(store: &dyn Store, server: Option<&(IdentifySystem, Instant)>, wait: Duration) -> Row {
    let mut row = Row {
        store: store.location().to_owned(),
        timeline: None,
        safe_lsn: None,
        last_commit: None,
        server_lsn: server.map(|(server, _)| server.flush_lsn.to_string()),
        window_bytes: None,
        window_ms: None,
        still_open: false,
        error: None,
    };
    loop {
        let found = match look(store).await {
            Ok(Some(found)) => found,
            Ok(None) => return row,
            Err(error) => {
                row.error = Some(causes::chain(&error));
                return row;
            }
        };
        if row.safe_lsn.is_none() {
            row.timeline = Some(found.timeline.as_u32());
            row.safe_lsn = Some(found.boundary.to_string());
            row.last_commit = found.last_commit.map(moment);
        }
        let Some((server, asked)) = server else {
            return row;
        };
        if row.window_bytes.is_none() {
            row.error = strangers(store, server, found.timeline).await;
            if row.error.is_some() {
                return row;
            }
            row.window_bytes = Some(server.flush_lsn.bytes_since(found.boundary).unwrap_or(0));
        }
        let open = found.boundary < server.flush_lsn;
        if !open && row.window_bytes == Some(0) {
            row.window_ms = Some(0);
            return row;
        }
        let waited = asked.elapsed();
        if !open || waited >= wait {
            row.window_ms = u64::try_from(waited.as_millis()).ok();
            row.still_open = open;
            return row;
        }
        tokio::time::sleep(POLL).await;
    }
}

/// A server's moment as PostgreSQL prints it, in UTC.
pub fn moment(time: Timestamp) -> String {
    let unix_micros = time.as_micros().saturating_add(946_684_800_000_000);
    match jiff::Timestamp::from_microsecond(unix_micros) {
        Ok(time) => time.strftime("%Y-%m-%d %H:%M:%S%.6f+00").to_string(),
        Err(_) => "an impossible time".to_owned(),
    }
}
