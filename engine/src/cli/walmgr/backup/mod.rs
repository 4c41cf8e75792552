//! Base backups on the command line: take, list, restore, verify, purge.

pub mod drop;
pub mod list;
pub mod purge;
pub mod restore;
pub mod take;
pub mod verify;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use skytide_wal::WalFileName;
use skytide_wal::backup::{BackupError, Progress, Stores};

use super::{archive, store};
use crate::cli::Context;
use crate::cli::failure::Advice;
use crate::cli::output::Measure;
use crate::config::settings::WalmgrSettings;

pub fn stores(settings: &WalmgrSettings) -> anyhow::Result<Stores> {
    Ok(Stores::new(store::open_all(settings)?, settings.stores_needed))
}

/// The stores that answer, to read from. The others are named.
///
/// # Errors
/// If none answers.
pub async fn readable(settings: &WalmgrSettings, context: &Context) -> anyhow::Result<Stores> {
    let stores = stores(settings)?;
    stores.leave_out_silent().await?;
    for (_, what) in stores.left_out() {
        context.output.warn(&format!("left out: {what}"));
    }
    Ok(stores)
}

/// Shows how far the work is until it is done.
async fn shown<T>(context: &Context, progress: &Arc<Progress>, work: impl Future<Output = T>) -> T {
    const LOOK: Duration = Duration::from_millis(200);
    let mut work = std::pin::pin!(work);
    let mut bar: Option<(String, crate::cli::output::Progress)> = None;
    loop {
        let done = tokio::select! {
            done = &mut work => Some(done),
            () = tokio::time::sleep(LOOK) => None,
        };
        let phase = progress.phase();
        if bar.as_ref().is_none_or(|(shown, _)| *shown != phase) && !phase.is_empty() {
            if let Some((shown, mut bar)) = bar.take() {
                bar.set(progress.ended(&shown).unwrap_or(0));
                bar.finish();
            }
            let measure = match phase.as_str() {
                "waiting for WAL" | "syncing" => Measure::Items,
                _ => Measure::Bytes,
            };
            bar = Some((phase.clone(), context.output.progress(phase, None, measure)));
        }
        if let Some((_, bar)) = &mut bar {
            match progress.total.load(Ordering::Relaxed) {
                0 => {}
                total => bar.set_total(total),
            }
            bar.set(progress.done.load(Ordering::Relaxed));
        }
        if let Some(done) = done {
            if let Some((_, bar)) = bar {
                bar.finish();
            }
            return done;
        }
    }
}

impl Advice for BackupError {
    fn hint(&self) -> Option<String> {
        match self {
            BackupError::Store(error) | BackupError::TooFew { source: error, .. } => store::hint(error),
            BackupError::Identity(error) => error.hint(),
            BackupError::Replaced { timeline, .. } => Some(archive::replaced(*timeline)),
            BackupError::Walsender(error) if error.server_error().is_some_and(|e| e.code == "28000") => Some(
                "The user needs the REPLICATION right, and pg_hba.conf a line: host replication USER ADDRESS \
                 scram-sha-256"
                    .into(),
            ),
            BackupError::WalTimeout { .. } => Some(
                "Look at pg_stat_archiver: archive_command has to be set and to succeed (skytide walmgr CONF archive \
                 %p %f). A quiet standby ends its segment only when its primary does: select pg_switch_wal() there."
                    .into(),
            ),
            BackupError::DamagedPages { .. } => Some(
                "Look at the disk, and at what the page belongs to (pg_filenode_relation). --accept-damage copies \
                 such pages as they are and notes them in the backup."
                    .into(),
            ),
            BackupError::NoIncremental { .. } => Some("Take a full backup: skytide walmgr CONF backup".into()),
            BackupError::NoGround { .. } => Some(
                "Another store may have it: name it in stores. Otherwise restore an older backup, and take a full one now.".into(),
            ),
            BackupError::NoHistory(timeline) => {
                let name = WalFileName::History(*timeline);
                Some(format!(
                    "The server has it in its pg_wal: skytide walmgr CONF archive pg_wal/{name} {name}"
                ))
            }
            BackupError::NoBackups => Some("Take one: skytide walmgr CONF backup".into()),
            BackupError::NoBackup(_) | BackupError::NoneBefore(_) => {
                Some("skytide walmgr CONF listbackups shows what there is.".into())
            }
            BackupError::Target { .. } => Some(
                "Choose a target within that range, or get the WAL that is missing: what the server has not archived \
                 yet is in its pg_wal."
                    .into(),
            ),
            BackupError::WalGap { .. } => Some(
                "Another store or the server's own pg_wal may have it. A backup whose WAL is gone is of no use: \
                 restore an older or a newer one (name it in place of latest)."
                    .into(),
            ),
            BackupError::Damaged { .. } | BackupError::Missing { .. } => Some(
                "A second store may have a sound copy: name it in stores. Otherwise restore another backup, and take \
                 a new one now."
                    .into(),
            ),
            BackupError::TablespaceTaken { path, .. } => Some(format!(
                "Put the tablespace elsewhere: --tablespace OLD=NEW. If nothing needs what is in {}, remove it first.",
                path.display()
            )),
            BackupError::TargetDir { what, .. } if what == "is not empty" => {
                Some("--delta uses what is there already; or name another directory.".into())
            }
            _ => None,
        }
    }
}
