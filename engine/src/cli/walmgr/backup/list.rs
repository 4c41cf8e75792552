//! `listbackups`: what there is.

use skytide_wal::backup::{Summary, list};

use super::readable;
use crate::causes;
use crate::cli::{Context, Outcome};
use crate::config::settings::WalmgrSettings;
use crate::config::unit;

pub const HELP: &str = "\
Exit code 3: a backup is there that cannot be read.

Example:
  skytide walmgr wal.ini listbackups --json";

pub async fn run(settings: &WalmgrSettings, context: &Context) -> anyhow::Result<Outcome> {
    let mut rows: Vec<Summary> = Vec::new();
    let mut outcome = Outcome::Done;
    for backup in list(&readable(settings, context).await?).await? {
        match backup {
            Ok(summary) => rows.push(summary),
            Err(error) => {
                context.output.warn(&causes::chain(&error));
                outcome = Outcome::No;
            }
        }
    }
    let heads = [
        "Backup", "Kind", "Finished", "Timeline", "WAL from", "to", "Files", "Size", "Stored", "Damaged",
    ];
    context.output.rows(&heads, &rows, |backup| {
        vec![
            backup.label.to_string(),
            backup.kind.to_string(),
            moment(backup.finished),
            backup.timeline.to_string(),
            backup.start_lsn.to_string(),
            backup.stop_lsn.to_string(),
            backup.files.to_string(),
            unit::show_size(backup.bytes),
            unit::show_size(backup.stored_bytes),
            backup.damaged_pages.to_string(),
        ]
    })?;
    Ok(outcome)
}

pub fn moment(unix_time: i64) -> String {
    jiff::Timestamp::from_second(unix_time).map_or_else(|_| unix_time.to_string(), |time| time.to_string())
}
