//! The queue's side of a consumer: its session, its batches, its waits.

use std::time::Duration;

use skytide_sql::BatchId;
use skytide_sql::api::pgq::{self, Batch, BatchCalls, BatchSize, Opening};
use skytide_sql::api::pgq_coop;
use skytide_sql::conn::{self, Session};
use tokio::sync::mpsc;
use tokio_postgres::{GenericClient, Notification};
use tokio_util::sync::CancellationToken;

use super::handler::Verdicts;
use super::{Events, QueueError, Settings};

/// A handler may take its time with events that wait in the connection: the server must not give up on us
/// because we do not read.
const SESSION_SETTINGS: &str = "\
    set tcp_user_timeout = 0; set statement_timeout = 0; \
    listen pgq_tick_wanted";

/// After a batch, or when somebody asked for a tick, the next one may be there at once.
const SHORTEST_WAIT: Duration = Duration::from_millis(5);

/// A consumer that is so far behind takes several ticks as one batch …
const BEHIND: Duration = Duration::from_millis(5);
/// … of about so much time. Ticks that are further apart are taken one by one.
const MOST_JOINED: Duration = Duration::from_secs(1);

pub(super) struct Source<'s> {
    settings: &'s Settings,
    pub session: Session,
    calls: BatchCalls,
    notifications: Option<mpsc::Receiver<Notification>>,
    /// The channel on which ticks are told, where the queue's PgQ does so.
    ticks: Option<String>,
    wait: Duration,
    /// How far the last batch was behind.
    lag: Duration,
}

impl<'s> Source<'s> {
    pub async fn connect(settings: &'s Settings) -> Result<Source<'s>, QueueError> {
        let mut session = conn::connect(&settings.source, &settings.application_name)
            .await
            .map_err(QueueError::Connect)?;
        session
            .batch_execute(SESSION_SETTINGS)
            .await
            .map_err(QueueError::sql("prepare the session"))?;
        let notifications = session.notifications();
        let calls = BatchCalls::prepare(&session).await?;
        let mut source = Source {
            settings,
            session,
            calls,
            notifications,
            ticks: None,
            wait: SHORTEST_WAIT,
            lag: Duration::ZERO,
        };
        source.check().await?;
        source.ticks = pgq::watch_ticks(&*source.session, &settings.queue).await?;
        Ok(source)
    }

    /// Errors of functions are texts; what a person most likely forgot is looked up instead.
    async fn check(&self) -> Result<(), QueueError> {
        let Settings {
            queue,
            consumer,
            group,
            ..
        } = self.settings;
        if pgq::get_queue_info(&*self.session, Some(queue)).await?.is_empty() {
            return Err(QueueError::NoQueue(queue.clone()));
        }
        if group.is_none() {
            let info = pgq::get_consumer_info(&*self.session, Some(queue), Some(consumer)).await?;
            if info.is_empty() {
                return Err(QueueError::NotRegistered {
                    queue: queue.clone(),
                    consumer: consumer.clone(),
                });
            }
        }
        Ok(())
    }

    pub async fn next_batch(&mut self, opening: Opening) -> Result<Option<Batch>, QueueError> {
        let Settings {
            queue,
            consumer,
            group,
            size,
            ..
        } = self.settings;
        let client = &*self.session;
        let Some(group) = group else {
            let next = async |size: &BatchSize| {
                self.calls
                    .next_batch(client, queue, consumer, size, opening)
                    .await
            };
            let mut batch = None;
            if let Some(larger) = catching_up(*size, self.lag) {
                batch = next(&larger).await?;
            }
            if batch.is_none() {
                batch = next(size).await?;
            }
            self.lag = batch.as_ref().map_or(Duration::ZERO, |batch| batch.lag);
            return Ok(batch);
        };
        let taken = pgq_coop::next_batch_custom(
            client,
            queue,
            consumer,
            &group.subconsumer,
            size,
            group.dead_interval,
        );
        match taken.await? {
            None => Ok(None),
            Some(id) => match pgq::get_batch_info(client, id).await? {
                Some(batch) => Ok(Some(batch)),
                None => Err(QueueError::BatchGone(id)),
            },
        }
    }

    /// The batch's events, by SQL.
    pub async fn events(&self, batch: &Batch) -> Result<Events, QueueError> {
        let Settings { filter, chunk, .. } = self.settings;
        let rows = self
            .calls
            .events(&self.session, batch.id, filter.as_deref())
            .await?;
        Ok(Events::of_queue(rows, *chunk))
    }

    /// Tells the verdicts and closes the batch, in one transaction.
    pub async fn finish(&mut self, batch: &Batch, verdicts: &Verdicts) -> Result<(), QueueError> {
        let grouped = self.settings.group.is_some();
        if !grouped && verdicts.is_empty() {
            return match self.calls.finish_batch(&self.session, batch).await? {
                true => Ok(()),
                false => Err(QueueError::BatchGone(batch.id)),
            };
        }
        let failed = QueueError::sql("finish the batch");
        let transaction = self
            .session
            .transaction()
            .await
            .map_err(QueueError::sql("finish the batch"))?;
        // Whoever took us for dead has the batch under the same id; after a crash of the server it may be any other.
        let owner = pgq::get_batch_info(&transaction, batch.id)
            .await?
            .map(|now| now.consumer_name);
        if owner.as_ref() != Some(&batch.consumer_name) {
            return Err(QueueError::BatchGone(batch.id));
        }
        tell(&self.calls, &transaction, batch.id, verdicts).await?;
        let finished = match grouped {
            true => pgq_coop::finish_batch(&transaction, batch.id).await?,
            false => pgq::finish_batch(&transaction, batch.id).await?,
        };
        if !finished {
            return Err(QueueError::BatchGone(batch.id));
        }
        transaction.commit().await.map_err(failed)
    }

    /// Whether a batch was moved away under us: then an error in it is no wonder. Asked aside, since the session may
    /// have much of the batch still to send.
    pub async fn is_gone(&self, batch: &Batch) -> bool {
        let Settings {
            source,
            application_name,
            ..
        } = self.settings;
        match conn::connect(source, application_name).await {
            Ok(session) => matches!(pgq::get_batch_info(&*session, batch.id).await, Ok(None)),
            Err(_) => false,
        }
    }

    /// Waits before the next look: for a tick, where ticks are told; else a moment at first, longer each time,
    /// until somebody asks for a tick.
    pub async fn idle(&mut self, stop: &CancellationToken) {
        let poll = self.settings.poll;
        let wait = match self.ticks {
            Some(_) => poll,
            None => self.wait.min(poll),
        };
        self.wait = wait.saturating_mul(2).min(poll);
        let told = told(
            &mut self.notifications,
            self.ticks.as_deref(),
            self.settings.queue.as_str(),
        );
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(wait) => {}
            () = told => self.wait = SHORTEST_WAIT,
        }
    }

    pub fn was_busy(&mut self) {
        self.wait = SHORTEST_WAIT;
    }
}

/// What to ask for where nobody said how large batches should be. A batch costs two commits however small it is: with a tick
/// every few milliseconds, a consumer that took each by itself would fall behind for ever on a slow disk.
fn catching_up(size: BatchSize, lag: Duration) -> Option<BatchSize> {
    (size == BatchSize::default() && lag >= BEHIND).then(|| BatchSize {
        // Since then more has come: where ticks are made at all, they reach that far.
        min_interval: Some(lag.min(MOST_JOINED)),
        ..size
    })
}

async fn tell<C: GenericClient>(
    calls: &BatchCalls,
    client: &C,
    batch: BatchId,
    verdicts: &Verdicts,
) -> Result<(), QueueError> {
    for (after, events) in &verdicts.retry {
        calls.retry(client, batch, events, *after).await?;
    }
    for (reason, events) in &verdicts.nack {
        let dead = pgq::event_nack(client, batch, events, reason).await?;
        if dead > 0 {
            tracing::warn!(batch = batch.get(), events = dead, "events became dead letters");
        }
    }
    for (reason, events) in &verdicts.dead {
        pgq::event_dead(client, batch, events, reason).await?;
    }
    Ok(())
}

/// Until a tick of the queue is made; where ticks are not told, until one is asked for.
async fn told(notifications: &mut Option<mpsc::Receiver<Notification>>, ticks: Option<&str>, queue: &str) {
    let Some(receiver) = notifications else {
        return std::future::pending().await;
    };
    while let Some(notification) = receiver.recv().await {
        let ours = match ticks {
            Some(channel) => notification.channel() == channel,
            None => notification.payload() == queue,
        };
        if ours {
            // One look finds all there is.
            while receiver.try_recv().is_ok() {}
            return;
        }
    }
    // The connection is gone; the next look will say so.
    *notifications = None;
    std::future::pending().await
}
