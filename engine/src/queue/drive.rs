//! The loop of every consumer: take, work, finish; wait, and come back after errors that pass.

use metrics::{counter, gauge};
use skytide_sql::backoff::Backoff;
use skytide_sql::fault::Fault;
use tokio_util::sync::CancellationToken;

use super::QueueError;
use super::handler::Verdicts;
use super::settings::{Settings, Until};
use super::source::Source;
use super::work::Work;
use crate::metrics as names;

/// What a consumer did.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Stats {
    pub batches: u64,
    pub events: u64,
    /// Batches that the target database had done already.
    pub skipped: u64,
    /// Errors that were waited out.
    pub failures: u64,
}

/// What became of a batch, before it is finished.
pub(super) struct Worked {
    pub events: u64,
    pub verdicts: Verdicts,
    pub skipped: bool,
}

pub(super) async fn drive<W: Work>(
    settings: &Settings,
    work: &mut W,
    stop: &CancellationToken,
) -> Result<Stats, QueueError> {
    let mut stats = Stats::default();
    let mut backoff = Backoff::default();
    loop {
        let error = match session(settings, work, stop, &mut stats, &mut backoff).await {
            Ok(()) => return Ok(stats),
            Err(error) => error,
        };
        if error.fault() != Fault::Retry || !settings.until.retries() {
            return Err(error);
        }
        stats.failures += 1;
        counter!(names::QUEUE_FAILURES).increment(1);
        work.reset();
        let delay = backoff.next_delay();
        if backoff.failures() == 1 || backoff.failures().is_multiple_of(10) {
            let failures = backoff.failures();
            let error = crate::causes::chain(&error);
            tracing::warn!(error, failures, "consuming failed; tried again in {delay:?}");
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(stats),
            () = tokio::time::sleep(delay) => {}
        }
    }
}

/// As long as the session lasts.
async fn session<W: Work>(
    settings: &Settings,
    work: &mut W,
    stop: &CancellationToken,
    stats: &mut Stats,
    backoff: &mut Backoff,
) -> Result<(), QueueError> {
    let mut source = tokio::select! {
        () = stop.cancelled() => return Ok(()),
        source = Source::connect(settings) => source?,
    };
    while !stop.is_cancelled() && !reached(settings.until, stats) {
        let Some(batch) = source.next_batch(work.opening()).await? else {
            // A look that found nothing worked, too.
            backoff.reset();
            if settings.until != Until::Stopped {
                return Ok(());
            }
            source.idle(stop).await;
            continue;
        };
        let worked = match work.batch(&source, &batch).await {
            Ok(worked) => worked,
            Err(error) if error.fault() != Fault::Retry && source.is_gone(&batch).await => {
                tracing::info!(
                    error = crate::causes::chain(&error),
                    "the batch was taken from us"
                );
                return Err(QueueError::BatchGone(batch.id));
            }
            Err(error) => return Err(error),
        };
        fail::fail_point!("queue::before_finish");
        source.finish(&batch, &worked.verdicts).await?;
        fail::fail_point!("queue::after_finish");
        source.was_busy();
        backoff.reset();
        stats.batches += 1;
        stats.events += worked.events;
        stats.skipped += u64::from(worked.skipped);
        counter!(names::QUEUE_BATCHES).increment(1);
        counter!(names::QUEUE_EVENTS).increment(worked.events);
        gauge!(names::QUEUE_LAG).set(batch.end.elapsed().unwrap_or_default().as_secs_f64());
        tracing::debug!(
            batch = batch.id.get(),
            tick = batch.tick.get(),
            events = worked.events,
            "batch finished"
        );
    }
    Ok(())
}

fn reached(until: Until, stats: &Stats) -> bool {
    matches!(until, Until::Batches(wanted) if stats.batches >= wanted)
}
