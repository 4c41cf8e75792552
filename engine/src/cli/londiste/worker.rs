//! `worker`: configuration → settings → the worker, with pidfile, log file, health port and signals.

use std::path::Path;
use std::time::Duration;

use super::super::failure::Failure;
use super::super::{Context, Outcome};
use crate::apply::ApplySettings;
use crate::config::settings::{Confirm, LondisteSettings};
use crate::daemon;
use crate::daemon::control::{DaemonArgs, Next};
use crate::spool;
use crate::worker::{self, WorkerSettings};

pub async fn run(
    conf: &Path,
    switches: &DaemonArgs,
    settings: LondisteSettings,
    context: &Context,
) -> anyhow::Result<Outcome> {
    if let Next::Leave(outcome) = switches.handle(&settings.process, context)? {
        return Ok(outcome);
    }
    let mut frame = daemon::start(&settings.process, context).await?;
    let grace = settings.process.shutdown_timeout;
    let mut current = settings;
    loop {
        // A reload runs the worker anew with the new settings; its state is in the spool and the
        // databases, so that costs a reconnect.
        let stop = context.shutdown.child_token();
        let running = worker::run(worker_settings(&current), frame.health.clone(), stop.clone());
        tokio::pin!(running);
        let reloaded = loop {
            tokio::select! {
                ended = &mut running => {
                    ended.map_err(failure)?;
                    break None;
                }
                Ok(()) = frame.reloads.changed() => match LondisteSettings::load(conf, &switches.overrides()?) {
                    Ok(fresh) if fresh != current => break Some(fresh),
                    Ok(_) => tracing::info!("configuration read again: nothing changed"),
                    Err(e) => tracing::error!(error = %e, "the old configuration stays in force"),
                },
                () = expired(&context.shutdown, grace) => {
                    return Err(Failure::new(format!("the worker did not stop within {grace:?}")).into());
                }
            }
        };
        match reloaded {
            Some(fresh) => {
                tracing::info!("configuration changed: the worker starts again");
                stop.cancel();
                running.await.map_err(failure)?;
                current = fresh;
            }
            None => break,
        }
    }
    Ok(Outcome::Done)
}

async fn expired(shutdown: &tokio_util::sync::CancellationToken, grace: Duration) {
    shutdown.cancelled().await;
    tokio::time::sleep(grace).await;
}

fn failure(error: worker::WorkerError) -> anyhow::Error {
    let hint = error.hint();
    let failure = Failure::new("the worker stopped").detail(crate::causes::chain(&error));
    match hint {
        Some(hint) => failure.hint(hint).into(),
        None => failure.into(),
    }
}

fn worker_settings(settings: &LondisteSettings) -> WorkerSettings {
    let job_name = settings.process.job_name.clone();
    let mut spool = spool::Settings::new(settings.spool_dir.clone());
    spool.max_bytes = settings.spool_max_bytes;
    spool.segment_bytes = settings.spool_segment_bytes;
    WorkerSettings {
        db: settings.db.clone(),
        remote_extra: settings.remote_extra_connstr.clone(),
        queue: settings.queue_name.clone(),
        slot: settings.slot_name.clone(),
        spool,
        apply: ApplySettings {
            application_name: job_name.clone(),
            chunk_bytes: usize::try_from(settings.apply_chunk_bytes).unwrap_or(usize::MAX),
            synchronous_commit: settings.apply_synchronous_commit,
            types: None,
        },
        batch_rows: settings.batch_max_rows,
        parallel_copies: settings.parallel_copies.max(1),
        copy_connections: settings.threaded_copy_pool_size.max(1),
        lock_timeout: settings.lock_timeout,
        confirm_applied: settings.confirm == Confirm::Applied,
        status_interval: settings.status_interval,
        sync_interval: Duration::from_millis(100),
        tick_request_interval: settings.tick_request_interval,
        watermark_period: settings.watermark_period.min(Duration::from_secs(5)),
        reload_period: settings.loop_delay.max(Duration::from_millis(10)),
        stats_period: settings.process.stats_period,
        job_name,
    }
}
